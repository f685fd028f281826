"""Settings of the whole suite, most of whose time is compiling small programs that run once."""

import os
import tempfile
from collections.abc import Iterator

# Before jax starts, and for the processes that tests start: compile fast rather than well, and keep
# programs. jax does not write them in one piece, so every worker has a folder of its own.
_programs = tempfile.TemporaryDirectory(prefix="scnf_jax-programs-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false"
).strip()

import jax  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def _free_programs() -> Iterator[None]:
    """Frees what a module has compiled: all of it together is gigabytes."""
    yield
    jax.clear_caches()

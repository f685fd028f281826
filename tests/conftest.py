"""Settings of the whole suite, most of whose time is compiling small programs that run once."""

import importlib.metadata
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Before jax starts, and for the processes that tests start: compile fast rather than well, and keep
# programs. jax does not write them in one piece, so every worker has a folder of its own.
_programs = tempfile.TemporaryDirectory(prefix="scnf_jax-programs-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones stop at this flag
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false"
    ).strip()

import jax  # noqa: E402
import pytest  # noqa: E402

# Flags of a run on points whose model compiles fast.
POINTS = ("--config=configs/moons.py:tiny", "--config.model.coupling=affine")


@pytest.fixture(autouse=True, scope="module")
def _free_programs() -> Iterator[None]:
    """Frees what a module has compiled: all of it together is gigabytes."""
    yield
    jax.clear_caches()


@contextmanager
def stopped_at(step: int, error: type[BaseException]) -> Iterator[None]:
    """Expects a training inside, and raises ``error`` in it before what follows ``step``."""
    from scnf_jax import runs

    original = runs._Loop._chunk

    def chunk(loop: Any) -> dict[str, float]:
        if loop.step == step:
            raise error
        return original(loop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs._Loop, "_chunk", chunk)
        with pytest.raises(error):
            yield

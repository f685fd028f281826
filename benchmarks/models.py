"""The models that are measured: the paper's, and those of this project's configs."""

import runpy
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from scnf_jax.bijectors.base import Array, Params
from scnf_jax.models import build_model
from scnf_jax.scnf import SemiConditionalFlow

CONFIGS = Path(__file__).parents[1] / "configs"
MNIST = "mnist"


def config_of(name: str) -> dict[str, Any]:
    """Settings of a config file, ``FILE`` or ``FILE:ARGUMENT``, as plain dicts."""
    file, _, argument = name.partition(":")
    get_config = runpy.run_path(str(CONFIGS / f"{file}.py"))["get_config"]
    return (get_config(argument) if argument else get_config()).to_dict()


def flow_of(
    name: str, batch: int, num_classes: int = 10, **changes: Any
) -> tuple[SemiConditionalFlow, Params, Array]:
    """A config's model with parameters, and a batch of its size of images.

    Args:
      name: see :func:`config_of`.
      batch: images.
      num_classes: K.
      **changes: settings of the model that differ.

    Returns:
      Model, parameters, images ``[batch, H, W, 1]`` of noise.
    """
    config = config_of(name)
    edge = 28 if config["dataset"] == "mnist" else 8
    x = jax.random.uniform(jax.random.key(0), (batch, edge, edge, 1), jnp.float32)
    model = build_model({**config["model"], **changes}, x.shape[1:], num_classes)
    if not isinstance(model, SemiConditionalFlow):
        raise ValueError(f"benchmarks: expected a config of a flow, got {name}")
    return model, jax.jit(model.init)(jax.random.key(1), x), x

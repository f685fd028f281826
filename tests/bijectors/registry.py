"""The one list of bijectors that every law is tested on: a new bijector adds a line."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from scnf_jax import bijectors as bj
from scnf_jax.bijectors import Bijector
from scnf_jax.conditioners import MLP, ResidualConv

CONTEXT_SIZE = 3


class Case(NamedTuple):
    """How a bijector is made and what is particular about it.

    Attributes:
      make: builds it.
      event: shape of one object.
      context: ``ignored``, ``optional`` or ``required``.
      preserves_volume: whether its log-det is 0 for any parameters.
      unit: whether it lives on [0, 1) instead of the real line.
    """

    make: Callable[[], Bijector]
    event: tuple[int, ...]
    context: str = "ignored"
    preserves_volume: bool = False
    unit: bool = False


def mlp(num_outputs: int) -> MLP:
    return MLP(num_outputs, hidden=(8,), activation=jnp.tanh)


def conv(num_outputs: int) -> ResidualConv:
    return ResidualConv(num_outputs, width=8, num_blocks=1)


def step(channels: int) -> Bijector:
    half = channels // 2
    return bj.chain(bj.actnorm(), bj.invertible_linear("lu"), bj.affine_coupling(mlp(2 * half)))


VECTOR, ODD, IMAGE = (4,), (5,), (4, 4, 2)
CASES = {
    "identity": Case(bj.identity, VECTOR, preserves_volume=True),
    "actnorm": Case(bj.actnorm, VECTOR),
    "actnorm_image": Case(bj.actnorm, IMAGE),
    "linear_full": Case(lambda: bj.invertible_linear("full"), VECTOR),
    "linear_full_identity": Case(lambda: bj.invertible_linear("full", "identity"), IMAGE),
    "linear_lu": Case(lambda: bj.invertible_linear("lu"), IMAGE),
    "linear_qr": Case(lambda: bj.invertible_linear("qr"), ODD),
    "linear_qr_identity": Case(lambda: bj.invertible_linear("qr", "identity"), IMAGE),
    "linear_householder": Case(
        lambda: bj.invertible_linear("householder"), ODD, preserves_volume=True
    ),
    "affine": Case(lambda: bj.affine_coupling(mlp(4)), VECTOR, "optional"),
    "affine_odd": Case(lambda: bj.affine_coupling(mlp(6)), ODD, "optional"),
    "affine_odd_swap": Case(lambda: bj.affine_coupling(mlp(4), swap=True), ODD, "optional"),
    "affine_exp": Case(lambda: bj.affine_coupling(mlp(4), scale="exp"), VECTOR, "optional"),
    "affine_shift_first": Case(
        lambda: bj.affine_coupling(mlp(4), shift_first=True, epsilon=1e-6), VECTOR, "optional"
    ),
    "affine_image": Case(lambda: bj.affine_coupling(conv(2)), IMAGE, "optional"),
    "affine_checkerboard": Case(
        lambda: bj.affine_coupling(conv(4), split="checkerboard"), IMAGE, "optional"
    ),
    "affine_checkerboard_swap": Case(
        lambda: bj.affine_coupling(conv(2), split="checkerboard", swap=True), (3, 3, 1), "optional"
    ),
    "additive": Case(
        lambda: bj.additive_coupling(mlp(2)), VECTOR, "optional", preserves_volume=True
    ),
    "spline": Case(lambda: bj.spline_coupling(mlp(2 * 11), num_bins=4), VECTOR, "optional"),
    "spline_checkerboard": Case(
        lambda: bj.spline_coupling(conv(2 * 8), num_bins=3, split="checkerboard"),
        IMAGE,
        "optional",
    ),
    "mixture": Case(lambda: bj.mixture_coupling(mlp(2 * 11), num_components=3), VECTOR, "optional"),
    "mixture_image": Case(
        lambda: bj.mixture_coupling(conv(8), num_components=2, swap=True), IMAGE, "optional"
    ),
    "conditional_shift": Case(
        lambda: bj.conditional_shift(0.5), IMAGE, "required", preserves_volume=True
    ),
    "logit": Case(bj.logit, IMAGE, unit=True),
    "gaussianization": Case(lambda: bj.marginal_gaussianization(8), IMAGE, unit=True),
    "squeeze": Case(bj.squeeze, IMAGE, preserves_volume=True),
    "flatten": Case(lambda: bj.flatten(IMAGE), IMAGE, preserves_volume=True),
    "permute": Case(lambda: bj.permute((2, 0, 3, 1)), VECTOR, preserves_volume=True),
    "reverse": Case(bj.reverse, ODD, preserves_volume=True),
    "chain": Case(lambda: step(4), VECTOR, "optional"),
    "repeat": Case(lambda: bj.repeat(step(4), 3), VECTOR, "optional"),
    "invert": Case(lambda: bj.invert(bj.affine_coupling(mlp(4))), VECTOR, "optional"),
    "multiscale": Case(
        lambda: bj.multiscale(bj.chain(bj.squeeze(), step(8)), step(4), bj.identity()),
        IMAGE,
        "optional",
    ),
}


def objects(case: Case, batch: int = 6, dtype: jnp.dtype = jnp.float32) -> jax.Array:
    shape = (batch, *case.event)
    if case.unit:
        return jax.random.uniform(jax.random.key(1), shape, dtype)
    return 1.5 * jax.random.normal(jax.random.key(1), shape, dtype)


def contexts(batch: int = 6, dtype: jnp.dtype = jnp.float32) -> jax.Array:
    return jax.random.normal(jax.random.key(2), (batch, CONTEXT_SIZE), dtype)


def perturbed(params: object, scale: float = 0.3) -> object:
    """Moves every parameter, so that no log-det is 0 by accident of initialisation."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(3), max(len(leaves), 1))

    def moved(key: jax.Array, leaf: jax.Array) -> jax.Array:
        fan_in = leaf.size / leaf.shape[-1]
        return leaf + scale / fan_in**0.5 * jax.random.normal(key, leaf.shape, leaf.dtype)

    return jax.tree.unflatten(tree, [moved(k, leaf) for k, leaf in zip(keys, leaves, strict=False)])

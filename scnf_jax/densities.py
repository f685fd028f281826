"""Base densities of latents."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scnf_jax.bijectors.base import Array, Event, Params, check_shape, sum_event


class Density(NamedTuple):
    """A density over one latent, or over a tuple of latents.

    Attributes:
      init: ``(key, z) -> params``; of ``z`` only shape and dtype count.
      log_prob: ``(params, z) -> [batch]``, in nats.
      sample: ``(params, key, num, temperature=1.0) -> z`` with a leading axis ``num``.
    """

    init: Callable[[Array, Event], Params]
    log_prob: Callable[[Params, Event], Array]
    sample: Callable[..., Event]


def diagonal_normal() -> Density:
    r"""A normal density with mean 0 and one learned deviation per latent element.

    .. math:: \log p(z) = -\tfrac12 \sum_i \big(z_i^2 / \sigma_i^2 + \log 2 \pi \sigma_i^2\big),
        \qquad \sigma = \mathrm{softplus}(l)

    with ``l = 0`` at the start, so that ``sigma = log 2``. ``sample`` multiplies the
    deviations by ``temperature``.

    Returns:
      A density over any pytree of ``[batch, *event]`` arrays; params mirror the tree,
      with leaves ``l [*event]``. At trace time ``log_prob`` raises ValueError for latents of
      another shape than ``init`` saw.

    References:
      the priors of the code beside Atanov et al. 2019, https://arxiv.org/abs/1905.00505
    """

    def init(key: Array, z: Event) -> Params:
        del key
        return {"raw_scale": jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), z)}

    def log_prob(params: Params, z: Event) -> Array:
        def leaf_log_prob(raw: Array, leaf: Array) -> Array:
            check_shape("diagonal_normal", raw.shape, leaf)
            sigma = jax.nn.softplus(raw)
            per_element = -0.5 * (leaf / sigma) ** 2 - jnp.log(sigma) - 0.5 * math.log(2 * math.pi)
            return sum_event(per_element)

        terms = jax.tree.leaves(jax.tree.map(leaf_log_prob, params["raw_scale"], z))
        return jnp.sum(jnp.stack(terms), 0)

    def sample(params: Params, key: Array, num: int, temperature: float | Array = 1.0) -> Event:
        leaves, tree = jax.tree.flatten(params["raw_scale"])

        def draw(leaf_key: Array, raw: Array) -> Any:
            noise = jax.random.normal(leaf_key, (num, *raw.shape), raw.dtype)
            return temperature * jax.nn.softplus(raw) * noise

        keys = jax.random.split(key, max(len(leaves), 1))
        return jax.tree.unflatten(
            tree, [draw(k, raw) for k, raw in zip(keys, leaves, strict=False)]
        )

    return Density(init, log_prob, sample)

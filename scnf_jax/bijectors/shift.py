"""A shift that depends on the context alone: with class labels, a mixture of Gaussians."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from scnf_jax.bijectors.base import Array, Bijector, Event, MapFn, Params, check_shape, zero_log_det


def conditional_shift(start_scale: float = 0.0) -> Bijector:
    r"""Subtracts a linear function of the context.

    .. math:: z = x - c M, \qquad x = z + c M, \qquad \log|\det| = 0

    With the one-hot label as context ``c``, row ``k`` of ``M`` is the mean of class
    ``k``, and the head of SCNF-GMM is this one layer.

    Args:
      start_scale: standard deviation of the entries of ``M`` at the start.

    Returns:
      A bijector on ``[batch, *event]`` with params ``mean [C, *event]``.

    Raises:
      ValueError: at trace time, where there is no context, or for objects of another shape than
        ``init`` saw.

    References:
      Atanov et al. 2019, "Semi-Conditional Normalizing Flows", section 4 (SCNF-GMM),
      https://arxiv.org/abs/1905.00505; Izmailov et al. 2020, "Semi-Supervised Learning
      with Normalizing Flows", section 3, https://arxiv.org/abs/1912.13025
    """

    def check(context: Array | None) -> Array:
        if context is None:
            raise ValueError("conditional_shift: expected a context [batch, C] or [1, C], got None")
        return context

    def init(key: Array, x: Event, context: Array | None = None) -> Params:
        shape = (check(context).shape[-1], *x.shape[1:])
        return {"mean": start_scale * jax.random.normal(key, shape, x.dtype)}

    def direction(add: Callable[[Array, Array], Array]) -> MapFn:
        def apply(params: Params, x: Event, context: Array | None = None) -> tuple[Event, Array]:
            label = check(context).astype(x.dtype)
            check_shape("conditional_shift", params["mean"].shape[1:], x)
            mean = jnp.tensordot(label, params["mean"], axes=1, precision=jax.lax.Precision.HIGHEST)
            return add(x, mean), zero_log_det(x)

        return apply

    return Bijector(init, direction(jnp.subtract), direction(jnp.add))

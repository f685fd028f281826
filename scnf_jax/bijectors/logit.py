"""The logit: from the unit interval to the real line."""

import jax
import jax.numpy as jnp

from scnf_jax.bijectors.base import Array, Bijector, elementwise


def logit(alpha: float = 0.05) -> Bijector:
    r"""Maps pixels in ``[0, 1]`` to the real line, away from the ends.

    .. math::
        p = (1 - \alpha) x + \alpha / 2, \qquad z = \log \frac{p}{1 - p}, \qquad
        \log \frac{dz}{dx} = \log (1 - \alpha) - \log p - \log (1 - p)

    ``p`` is clipped to ``[eps, 1 - eps]``, with the machine's ``eps``: the value and its
    gradient stay finite further out, and the map is not invertible there.

    Args:
      alpha: how much of the interval is kept free at both ends together, in (0, 1).

    Returns:
      An elementwise bijector without parameters.

    Raises:
      ValueError: if ``alpha`` is not in (0, 1).

    References:
      Dinh, Sohl-Dickstein, Bengio 2017, "Density estimation using Real NVP",
      section 4.1, https://arxiv.org/abs/1605.08803
    """
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"logit: expected alpha in (0, 1), got {alpha}")

    def forward(x: Array) -> tuple[Array, Array]:
        tiny = jnp.asarray(jnp.finfo(x.dtype).eps, x.dtype)
        p = jnp.clip((1.0 - alpha) * x + alpha / 2.0, tiny, 1.0 - tiny)
        log_p, log_q = jnp.log(p), jnp.log1p(-p)
        return log_p - log_q, jnp.log1p(-alpha) - log_p - log_q

    def inverse(z: Array) -> tuple[Array, Array]:
        log_p, log_q = jax.nn.log_sigmoid(z), jax.nn.log_sigmoid(-z)
        x = (jax.nn.sigmoid(z) - alpha / 2.0) / (1.0 - alpha)
        return x, log_p + log_q - jnp.log1p(-alpha)

    return elementwise(forward, inverse)

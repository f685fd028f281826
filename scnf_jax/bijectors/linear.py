"""Invertible linear maps of the channels (the 1x1 convolution of Glow), four ways."""

from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from scnf_jax.bijectors.base import Array, Bijector, Event, Params, check_channels, positions
from scnf_jax.options import check_positive

Kind = Literal["full", "lu", "qr", "householder"]
Start = Literal["rotation", "identity"]
_HIGHEST = jax.lax.Precision.HIGHEST


class _Weight(NamedTuple):
    """One parametrisation of a square matrix ``W``; rows of ``x`` map to ``x @ W``."""

    init: "_InitWeight"
    matmul: "_Apply"
    solve: "_Apply"
    log_abs_det: "_LogDet"


class _InitWeight(Protocol):
    def __call__(self, key: Array, channels: int, dtype: jnp.dtype) -> Params: ...


class _Apply(Protocol):
    def __call__(self, params: Params, rows: Array) -> Array: ...


class _LogDet(Protocol):
    def __call__(self, params: Params) -> Array: ...


def _dot(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=_HIGHEST)


def _start(key: Array, channels: int, dtype: jnp.dtype, start: Start) -> Array:
    if start == "identity":
        return jnp.eye(channels, dtype=dtype)
    return jax.random.orthogonal(key, channels, dtype=dtype)


def _full(start: Start) -> _Weight:
    def init(key: Array, channels: int, dtype: jnp.dtype) -> Params:
        return {"weight": _start(key, channels, dtype, start)}

    def solve(params: Params, rows: Array) -> Array:
        return jnp.linalg.solve(params["weight"].T, rows.T).T

    return _Weight(
        init,
        lambda params, rows: _dot(rows, params["weight"]),
        solve,
        lambda params: jnp.linalg.slogdet(params["weight"])[1],
    )


def _lu(start: Start, seed: int) -> _Weight:
    """``W = P L (U + diag(exp(s)))``, with a static permutation ``P``."""

    def order(channels: int) -> np.ndarray:
        if start == "identity":
            return np.arange(channels)
        return np.random.RandomState(seed).permutation(channels)

    def factors(params: Params) -> tuple[Array, Array]:
        eye = jnp.eye(params["lower"].shape[0], dtype=params["lower"].dtype)
        return jnp.tril(params["lower"], -1) + eye, _upper(params)

    def init(key: Array, channels: int, dtype: jnp.dtype) -> Params:
        del key
        square = jnp.zeros((channels, channels), dtype)
        return {"lower": square, "upper": square, "log_diagonal": jnp.zeros(channels, dtype)}

    def matmul(params: Params, rows: Array) -> Array:
        lower, upper = factors(params)
        # The small matrix is permuted rather than the data, whose gradient would be a scatter.
        weight = _dot(lower, upper)[np.argsort(order(rows.shape[-1]))]
        return _dot(rows, weight)

    def solve(params: Params, rows: Array) -> Array:
        lower, upper = factors(params)
        half = solve_triangular(upper.T, rows.T, lower=True)
        rows = solve_triangular(lower.T, half, lower=False).T
        return rows[:, np.argsort(order(rows.shape[-1]))]

    return _Weight(init, matmul, solve, lambda params: jnp.sum(params["log_diagonal"]))


def _upper(params: Params) -> Array:
    return jnp.triu(params["upper"], 1) + jnp.diag(jnp.exp(params["log_diagonal"]))


def _orthogonal(vectors: Array) -> Array:
    """The product of the Householder reflections ``I - 2 v v^T / |v|^2`` over the rows."""

    def reflect(matrix: Array, vector: Array) -> tuple[Array, None]:
        tiny = jnp.finfo(vector.dtype).tiny
        unit = vector * jax.lax.rsqrt(jnp.maximum(jnp.sum(vector**2), tiny))
        return matrix - 2.0 * jnp.outer(_dot(matrix, unit), unit), None

    # Split over devices as the vectors are, under shard_map.
    eye = jnp.eye(vectors.shape[-1], dtype=vectors.dtype) + jnp.zeros_like(vectors[0])
    return jax.lax.scan(reflect, eye, vectors)[0]


def _reflections(key: Array, channels: int, dtype: jnp.dtype, num: int, start: Start) -> Array:
    if start == "rotation":
        return jax.random.normal(key, (num, channels), dtype)
    if num % 2:
        raise ValueError(
            f"invertible_linear: start='identity' needs an even number of reflections, got {num}"
        )
    # Every reflection stands twice, and so cancels.
    return jnp.repeat(jax.random.normal(key, (num // 2, channels), dtype), 2, axis=0)


def _householder(start: Start, num: int | None) -> _Weight:
    def count(channels: int) -> int:
        return num if num is not None else channels + channels % 2

    return _Weight(
        lambda key, channels, dtype: {
            "vectors": _reflections(key, channels, dtype, count(channels), start)
        },
        lambda params, rows: _dot(rows, _orthogonal(params["vectors"])),
        lambda params, rows: _dot(rows, _orthogonal(params["vectors"]).T),
        lambda params: jnp.zeros((), params["vectors"].dtype),
    )


def _qr(start: Start, num: int | None) -> _Weight:
    """``W = Q R``: Householder reflections times an upper triangle with diagonal ``exp(s)``."""
    rotation = _householder(start, num)

    def init(key: Array, channels: int, dtype: jnp.dtype) -> Params:
        return {
            **rotation.init(key, channels, dtype),
            "upper": jnp.zeros((channels, channels), dtype),
            "log_diagonal": jnp.zeros(channels, dtype),
        }

    def matmul(params: Params, rows: Array) -> Array:
        return _dot(rows, _dot(_orthogonal(params["vectors"]), _upper(params)))

    def solve(params: Params, rows: Array) -> Array:
        half = solve_triangular(_upper(params).T, rows.T, lower=True).T
        return rotation.solve(params, half)

    return _Weight(init, matmul, solve, lambda params: jnp.sum(params["log_diagonal"]))


def invertible_linear(
    kind: Kind = "full",
    start: Start = "rotation",
    num_reflections: int | None = None,
    seed: int = 0,
) -> Bijector:
    r"""Mixes the channels of every position with one square matrix.

    .. math::
        z = x W, \qquad x = z W^{-1}, \qquad
        \log\left|\det \frac{\partial z}{\partial x}\right| = P \log |\det W|

    with ``P`` positions (``H * W`` of an image). Products and solves run in full
    precision on every backend.

    Args:
      kind: ``full``, a free matrix, whose determinant costs ``O(C^3)``; ``lu``,
        ``W = P L U`` with a fixed permutation; ``qr``, ``W = Q R`` with ``Q`` a
        product of reflections; ``householder``, an orthogonal ``W`` with log-det 0.
        The last three cannot become singular.
      start: ``rotation``, a random rotation (for ``lu`` a random permutation), or
        ``identity``.
      num_reflections: of ``qr`` and ``householder``; default the number of channels,
        rounded up to an even number.
      seed: of the permutation of ``lu``, which is static.

    Returns:
      A bijector on ``[batch, ..., C]``.

    Raises:
      ValueError: if ``kind`` or ``start`` is unknown, or ``num_reflections`` below 1; by ``init``,
        if it is odd and ``start`` is ``identity``; at trace time, for another number of channels
        than ``init`` saw.

    References:
      Kingma, Dhariwal 2018, "Glow", section 3.2, https://arxiv.org/abs/1807.03039;
      Tomczak, Welling 2016, "Improving Variational Auto-Encoders using Householder
      Flow", https://arxiv.org/abs/1611.09630; Hoogeboom et al. 2019, "Emerging
      Convolutions", section 3.1 (QR), https://arxiv.org/abs/1901.11137
    """
    if start not in ("rotation", "identity"):
        raise ValueError(
            f"invertible_linear: expected start 'rotation' or 'identity', got {start!r}"
        )
    if num_reflections is not None:
        check_positive("invertible_linear: num_reflections", num_reflections)
    if kind == "full":
        weight = _full(start)
    elif kind == "lu":
        weight = _lu(start, seed)
    elif kind == "qr":
        weight = _qr(start, num_reflections)
    elif kind == "householder":
        weight = _householder(start, num_reflections)
    else:
        raise ValueError(
            f"invertible_linear: expected kind full, lu, qr or householder, got {kind!r}"
        )

    def init(key: Array, x: Event, context: Array | None = None) -> Params:
        del context
        return weight.init(key, x.shape[-1], x.dtype)

    def check(params: Params, x: Array) -> None:
        channels = jax.tree.leaves(params)[0].shape[-1]  # the last axis of all of them
        check_channels("invertible_linear", channels, x)

    def forward(params: Params, x: Event, context: Array | None = None) -> tuple[Event, Array]:
        del context
        check(params, x)
        z = weight.matmul(params, x.reshape(-1, x.shape[-1])).reshape(x.shape)
        log_det = positions(x) * weight.log_abs_det(params)
        return z, jnp.broadcast_to(log_det, x.shape[:1])

    def inverse(params: Params, z: Event, context: Array | None = None) -> tuple[Event, Array]:
        del context
        check(params, z)
        x = weight.solve(params, z.reshape(-1, z.shape[-1])).reshape(z.shape)
        log_det = -positions(z) * weight.log_abs_det(params)
        return x, jnp.broadcast_to(log_det, z.shape[:1])

    return Bijector(init, forward, inverse)

"""Networks for coupling layers: Flax Linen modules, and an adapter for ``flax.nnx``.

A conditioner is any object with ``init(key, x, context) -> params`` and
``apply(params, x, context) -> theta``; see :class:`~scnf_jax.bijectors.Conditioner`.
Flax is imported in this file alone. Every network here adds ``W_x x + W_c context``
in its first layer, so that ``W_x x`` is computed once when labels are vmapped, and
starts its last layer at zero.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

from scnf_jax.bijectors.actnorm import channel_moments
from scnf_jax.bijectors.base import Array, Conditioner, Params

Padding = Literal["zeros", "reflect"]
_FEW_CHANNELS = 16
Dtype = Any


def _with_context(h: Array, context: Array | None, features: int, dtype: Dtype) -> Array:
    """Adds ``W_c context``, the same at every position of ``h [batch, ..., features]``."""
    if context is None:
        return h
    row = nn.Dense(features, use_bias=False, dtype=dtype, name="context")(context)
    return h + row.reshape(row.shape[0], *(1,) * (h.ndim - 2), features)


class MLP(nn.Module):
    """A multilayer perceptron on the channels: ``[batch, ..., C] -> [batch, ..., num_outputs]``.

    Attributes:
      num_outputs: channels of the result.
      hidden: widths of the hidden layers.
      activation: between layers.
      dtype: of the computation; parameters stay float32. Default: that of the input.
    """

    num_outputs: int
    hidden: Sequence[int] = (64, 64)
    activation: Callable[[Array], Array] = nn.relu
    dtype: Dtype = None

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None) -> Array:
        """Computes ``theta`` of ``x`` and ``context``."""
        h = nn.Dense(self.hidden[0], dtype=self.dtype, name="input")(x)
        h = _with_context(h, context, self.hidden[0], self.dtype)
        for width in self.hidden[1:]:
            h = nn.Dense(width, dtype=self.dtype)(self.activation(h))
        return _zero_dense(self.num_outputs, self.dtype)(self.activation(h))


class ResidualMLP(nn.Module):
    """A pre-activation residual network of 1x1 convolutions (dense layers on channels).

    Attributes:
      num_outputs: channels of the result.
      width: channels inside.
      num_blocks: residual blocks, ``h + W_2 relu(W_1 relu(h))``.
      normalize: whether an activation normalisation, set by the first batch, stands
        before the last activation, as in the authors' networks.
      dtype: of the computation.
    """

    num_outputs: int
    width: int = 256
    num_blocks: int = 4
    normalize: bool = False
    dtype: Dtype = None

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None) -> Array:
        """Computes ``theta`` of ``x`` and ``context``."""
        h = nn.Dense(self.width, dtype=self.dtype, name="input")(x)
        h = _with_context(h, context, self.width, self.dtype)
        for _ in range(self.num_blocks):
            r = nn.Dense(self.width, dtype=self.dtype)(nn.relu(h))
            h = h + nn.Dense(self.width, dtype=self.dtype)(nn.relu(r))
        h = ActNorm()(h) if self.normalize else h
        return _zero_dense(self.num_outputs, self.dtype)(nn.relu(h))


class ResidualConv(nn.Module):
    """A pre-activation residual network of 3x3 convolutions on ``[batch, H, W, C]``.

    Attributes:
      num_outputs: channels of the result.
      width: channels inside.
      num_blocks: residual blocks of two 3x3 convolutions.
      padding: ``zeros``, or ``reflect`` as in the authors' code.
      normalize: as in :class:`ResidualMLP`.
      dtype: of the computation.
    """

    num_outputs: int
    width: int = 64
    num_blocks: int = 4
    padding: Padding = "zeros"
    normalize: bool = False
    dtype: Dtype = None

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None) -> Array:
        """Computes ``theta`` of ``x`` and ``context``."""
        h = Conv3x3(self.width, self.padding, dtype=self.dtype, name="input")(x)
        h = _with_context(h, context, self.width, self.dtype)
        for _ in range(self.num_blocks):
            r = Conv3x3(self.width, self.padding, dtype=self.dtype)(nn.relu(h))
            h = h + Conv3x3(self.width, self.padding, dtype=self.dtype)(nn.relu(r))
        h = ActNorm()(h) if self.normalize else h
        last = Conv3x3(
            self.num_outputs,
            self.padding,
            kernel_init=nn.initializers.zeros_init(),
            dtype=self.dtype,
            name="output",
        )
        return last(nn.relu(h))


def _zero_dense(features: int, dtype: Dtype) -> nn.Dense:
    zeros = nn.initializers.zeros_init()
    return nn.Dense(features, kernel_init=zeros, dtype=dtype, name="output")


class Conv3x3(nn.Module):
    """A 3x3 convolution of stride 1 that keeps height and width.

    On CPU it runs as one matrix product with shifted copies of its input or shifted sums of
    its output, whichever has fewer channels: inside a loop, as under ``lax.scan``, XLA's CPU
    convolution leaves its fast path. Where few channels are shifted, the shifts themselves
    are products with matrices of zeros and ones, whose gradient is as fast as they are. The
    result is the same up to rounding.

    Attributes:
      features: output channels.
      padding: ``zeros`` or ``reflect``.
      kernel_init: of ``kernel [3, 3, C, features]``.
      dtype: of the computation.
    """

    features: int
    padding: Padding = "zeros"
    kernel_init: Any = nn.initializers.lecun_normal()
    dtype: Dtype = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Convolves ``x [batch, H, W, C]``."""
        channels = x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (3, 3, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        on_cpu = jax.default_backend() == "cpu"
        if on_cpu and min(channels, self.features) <= _FEW_CHANNELS:
            return _shift_product(x, kernel, self.padding) + bias
        mode = "constant" if self.padding == "zeros" else "reflect"
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=mode)
        if on_cpu:
            return _patch_product(padded, kernel) + bias
        dims = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(padded, kernel, (1, 1), "VALID", dimension_numbers=dims)
        return y + bias


def _shift_product(x: Array, kernel: Array, padding: Padding) -> Array:
    """The convolution as one product, with the shifts as products along each axis.

    As :func:`_patch_product`, but slices have gradients that pad nine arrays and add them,
    while the gradient of a product is a product.
    """
    batch, height, width, inputs = x.shape
    outputs = kernel.shape[3]
    rows, columns = (jnp.asarray(_shifts(n, padding), x.dtype) for n in (height, width))
    if inputs <= outputs:
        patches = jnp.einsum("hrp,bpwc->bhwrc", rows, x)
        patches = jnp.einsum("wsq,bhqrc->bhwrsc", columns, patches)
        y = patches.reshape(-1, 9 * inputs) @ kernel.reshape(9 * inputs, outputs)
        return y.reshape(batch, height, width, outputs)
    kernels = kernel.transpose(2, 0, 1, 3).reshape(inputs, 9 * outputs)
    products = (x.reshape(-1, inputs) @ kernels).reshape(batch, height, width, 3, 3, outputs)
    y = jnp.einsum("wsq,bhqrsc->bhwrc", columns, products)
    return jnp.einsum("hrp,bpwrc->bhwc", rows, y)


def _shifts(size: int, padding: Padding) -> np.ndarray:
    """``[size, 3, size]``: 1 where element ``q`` is what position ``p`` sees at ``d - 1``."""
    index = np.pad(np.arange(size), 1, mode="reflect" if size > 1 else "edge")
    seen = np.stack([index[d : d + size] for d in range(3)], 1)
    matrix = np.zeros((size, 3, size), np.float32)
    np.put_along_axis(matrix, seen[..., None], 1.0, -1)
    if padding == "zeros":
        matrix[0, 0] = matrix[-1, 2] = 0.0
    return matrix


def _patch_product(padded: Array, kernel: Array) -> Array:
    """The convolution as one product, with the nine shifts on the side of fewer channels.

    Either nine shifted views of the input are joined and multiplied with the kernel, or
    the input is multiplied with nine kernels at once and the shifted products are added.
    What is copied is then small, in the gradient too.
    """
    batch, height, width = padded.shape[0], padded.shape[1] - 2, padded.shape[2] - 2
    inputs, outputs = kernel.shape[2:]
    shifts = [(row, column) for row in range(3) for column in range(3)]

    def shifted(x: Array, row: int, column: int) -> Array:
        return x[:, row : row + height, column : column + width]

    if inputs <= outputs:
        patches = jnp.concatenate([shifted(padded, r, c) for r, c in shifts], -1)
        y = patches.reshape(-1, 9 * inputs) @ kernel.reshape(9 * inputs, outputs)
        return y.reshape(batch, height, width, outputs)
    kernels = kernel.transpose(2, 0, 1, 3).reshape(inputs, 9 * outputs)
    products = (padded.reshape(-1, inputs) @ kernels).reshape(*padded.shape[:3], 9, outputs)
    parts = [shifted(products[..., k, :], r, c) for k, (r, c) in enumerate(shifts)]
    return functools.reduce(jnp.add, parts)


class ActNorm(nn.Module):
    """``(h - bias) exp(log_scale)`` per channel, initialised on the first batch."""

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Normalises ``h [batch, ..., C]``."""
        moments = channel_moments(h.astype(jnp.promote_types(h.dtype, jnp.float32)))
        bias = self.param("bias", lambda _: moments[0])
        log_scale = self.param("log_scale", lambda _: -jnp.log(moments[1]))
        return (h - bias.astype(h.dtype)) * jnp.exp(log_scale).astype(h.dtype)


class _NnxConditioner(NamedTuple):
    init: Callable[..., Params]
    apply: Callable[..., Array]


def from_nnx(build: Callable[[nnx.Rngs], nnx.Module]) -> Conditioner:
    """Makes a conditioner of a ``flax.nnx`` module.

    Args:
      build: ``rngs -> module``; the module is called as ``module(x, context)``. Start
        its last layer at zero for a flow that starts at the identity.

    Returns:
      A conditioner whose params are one dict from dotted names to arrays.

    Raises:
      ValueError: where the module holds state that is not an ``nnx.Param``
        (batch statistics, say), since every leaf of params is trained.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> class Net(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.layer = nnx.Linear(2, 4, rngs=rngs)
      ...     def __call__(self, x, context):
      ...         return self.layer(x)
      >>> conditioner = from_nnx(Net)
      >>> x = jax.numpy.ones((3, 2))
      >>> conditioner.apply(conditioner.init(jax.random.key(0), x), x).shape
      (3, 4)
    """

    def split(module: Any) -> tuple[Any, dict[str, tuple[Any, Any]]]:
        """The module's static graph, and its parameters by dotted name with their paths."""
        graph, *states = nnx.split(module, nnx.Param, ...)
        params, other = states
        if jax.tree.leaves(other):
            names = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(other)]
            raise ValueError(
                "from_nnx: expected a module whose only state is nnx.Param, since every leaf of "
                f"params is trained; got other state at {', '.join(names)}"
            )
        flat = nnx.to_flat_state(params)
        return graph, {".".join(map(str, path)): (path, leaf) for path, leaf in flat}

    def init(key: Array, x: Array, context: Array | None = None) -> Params:
        del x, context
        _, named = split(build(nnx.Rngs(key)))
        return {name: leaf[...] for name, (_, leaf) in named.items()}

    def apply(params: Params, x: Array, context: Array | None = None) -> Array:
        graph, named = split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
        flat = [(path, leaf.replace(params[name])) for name, (path, leaf) in named.items()]
        return nnx.merge(graph, nnx.from_flat_state(flat), {})(x, context)

    return _NnxConditioner(init, apply)

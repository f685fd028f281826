"""Networks: Flax Linen modules for coupling layers and a classifier, an adapter for ``flax.nnx``.

A conditioner is any object with ``init(key, x, context) -> params`` and
``apply(params, x, context) -> theta``; see :class:`~scnf_jax.bijectors.Conditioner`.
Flax is imported in this file alone. Every coupling's conditioner here adds ``W_x x + W_c context``
in its first layer, so that ``W_x x`` is computed once when labels are vmapped, and
starts its last layer at zero.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from scnf_jax.bijectors.actnorm import channel_moments
from scnf_jax.bijectors.base import Array, Conditioner, Params
from scnf_jax.bijectors.shape import squeeze
from scnf_jax.options import check_choice, check_count, check_positive, check_sizes

Padding = Literal["zeros", "reflect"]
_FEW_CHANNELS = 16
_GROUPS = 4
_LEAK = 0.1
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
        """Computes ``theta`` of ``x`` and ``context``; ValueError for widths below 1."""
        if not self.hidden:
            raise ValueError("hidden: expected at least one width, got none")
        check_sizes("hidden", self.hidden)
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
        """Computes ``theta`` of ``x`` and ``context``; ValueError for sizes that cannot be."""
        check_positive("width", self.width)
        check_count("num_blocks", self.num_blocks)
        h = nn.Dense(self.width, dtype=self.dtype, name="input")(x)
        h = _with_context(h, context, self.width, self.dtype)
        for _ in range(self.num_blocks):
            r = nn.Dense(self.width, dtype=self.dtype)(nn.relu(h))
            h = h + nn.Dense(self.width, dtype=self.dtype)(nn.relu(r))
        h = ActNorm()(h) if self.normalize else h
        return _zero_dense(self.num_outputs, self.dtype)(nn.relu(h))


class ResidualConv(nn.Module):
    """A pre-activation residual network of 3x3 convolutions on ``[batch, H, W, C]``.

    With ``num_blocks=0, num_pointwise=1`` it is the network of Glow's couplings: 3x3, 1x1, 3x3.

    Attributes:
      num_outputs: channels of the result.
      width: channels inside.
      num_blocks: residual blocks of two 3x3 convolutions.
      num_pointwise: 1x1 convolutions after the blocks, ``h = W relu(h)``. Both of their sides
        are wide, so that they do many operations for each number read.
      padding: ``zeros``, or ``reflect`` as in the authors' code.
      normalize: as in :class:`ResidualMLP`.
      dtype: of the computation.

    References:
      Kingma and Dhariwal 2018, section 5 (the three layers), https://arxiv.org/abs/1807.03039
    """

    num_outputs: int
    width: int = 64
    num_blocks: int = 4
    num_pointwise: int = 0
    padding: Padding = "zeros"
    normalize: bool = False
    dtype: Dtype = None

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None) -> Array:
        """Computes ``theta`` of ``x`` and ``context``; ValueError for sizes that cannot be."""
        check_positive("width", self.width)
        check_count("num_blocks", self.num_blocks)
        check_count("num_pointwise", self.num_pointwise)
        h = Conv3x3(self.width, self.padding, dtype=self.dtype, name="input")(x)
        h = _with_context(h, context, self.width, self.dtype)
        for _ in range(self.num_blocks):
            r = Conv3x3(self.width, self.padding, dtype=self.dtype)(nn.relu(h))
            h = h + Conv3x3(self.width, self.padding, dtype=self.dtype)(nn.relu(r))
        for _ in range(self.num_pointwise):
            h = nn.Dense(self.width, dtype=self.dtype)(nn.relu(h))
        h = ActNorm()(h) if self.normalize else h
        last = Conv3x3(
            self.num_outputs,
            self.padding,
            kernel_init=nn.initializers.zeros_init(),
            dtype=self.dtype,
            name="output",
        )
        return last(nn.relu(h))


class ConvNet(nn.Module):
    """A classifier's network: ``[batch, H, W, C] -> [batch, num_outputs]``.

    A 3x3 convolution at half of the resolution and two at a quarter, where pixels have been
    squeezed into channels, then a dense layer; group normalisation after each convolution.

    Attributes:
      num_outputs: of the result.
      width: channels of the first convolution, a multiple of 4; the others have twice as many.
      hidden: width of the dense layer.

    References:
      Wu, He 2018, "Group Normalization", section 3, https://arxiv.org/abs/1803.08494
    """

    num_outputs: int
    width: int = 24
    hidden: int = 128

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Logits of ``x``, with values in [0, 1); ValueError for widths that do not fit."""
        check_positive("hidden", self.hidden)
        check_positive("width", self.width)
        if self.width % _GROUPS:
            raise ValueError(f"width: expected a multiple of {_GROUPS}, got {self.width}")
        halve = squeeze()

        def convolve(h: Array, features: int) -> Array:
            return nn.leaky_relu(nn.GroupNorm(_GROUPS)(Conv3x3(features)(h)), _LEAK)

        h, _ = halve.forward((), x)
        h, _ = halve.forward((), convolve(h, self.width))
        h = convolve(convolve(h, 2 * self.width), 2 * self.width)
        h = nn.leaky_relu(nn.Dense(self.hidden)(h.reshape(h.shape[0], -1)), _LEAK)
        return nn.Dense(self.num_outputs)(h)


def _zero_dense(features: int, dtype: Dtype) -> nn.Dense:
    zeros = nn.initializers.zeros_init()
    return nn.Dense(features, kernel_init=zeros, dtype=dtype, name="output")


class Conv3x3(nn.Module):
    """A 3x3 convolution of stride 1 that keeps height and width.

    On CPU it runs as one matrix product between shifted copies of its input and shifted sums
    of its output, since inside a loop, as under ``lax.scan``, XLA's CPU convolution leaves its
    fast path, above all in the gradient. The result is the same up to rounding.

    Attributes:
      features: output channels.
      padding: ``zeros`` or ``reflect``.
      kernel_init: of ``kernel [3, 3, C, features]``.
      dtype: of the computation; parameters are float32.
    """

    features: int
    padding: Padding = "zeros"
    kernel_init: Any = nn.initializers.lecun_normal()
    dtype: Dtype = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Convolves ``x [batch, H, W, C]``; ValueError for another padding."""
        check_choice("padding", self.padding, get_args(Padding))
        channels = x.shape[-1]
        kernel = self.param(
            "kernel", self.kernel_init, (3, 3, channels, self.features), jnp.float32
        )
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if jax.default_backend() == "cpu":
            return _one_product(x, kernel, self.padding) + bias
        x = _pad(x, (1, 2), self.padding)
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", None, None, dims) + bias


def _one_product(x: Array, kernel: Array, padding: Padding) -> Array:
    """The convolution as one matrix product.

    The three shifts along an axis stand on the input's side, as copies joined along the
    channels, or on the output's, where the parts of the product are shifted and added. Both
    axes stand on the side of fewer channels, where these are few. Else each side has one: no
    array then has more than three times the channels, in the gradient neither.
    """
    inputs, outputs = kernel.shape[2:]
    few = min(inputs, outputs) <= _FEW_CHANNELS
    joined: tuple[int, ...]
    added: tuple[int, ...]
    if few and inputs <= outputs:
        joined, added, order = (2, 1), (), (0, 1, 2, 3)
    elif few:
        joined, added, order = (), (1, 2), (2, 0, 1, 3)
    else:
        joined, added, order = (2,), (1,), (1, 2, 0, 3)
    if padding == "reflect":
        x = _pad(x, (1, 2), padding)

    def shifted(y: Array, axis: int) -> list[Array]:
        """Three views of an axis, each as long as it is without padding."""
        y = _pad(y, (axis,), padding) if padding == "zeros" else y
        size = y.shape[axis] - 2
        return [jax.lax.slice_in_dim(y, by, by + size, axis=axis) for by in range(3)]

    for axis in joined:
        x = jnp.concatenate(shifted(x, axis), -1)
    rows = x.reshape(math.prod(x.shape[:3]), x.shape[-1])
    y = rows @ kernel.transpose(order).reshape(x.shape[-1], -1)
    y = y.reshape(*x.shape[:3], y.shape[-1])
    for axis in added:
        parts = [jnp.split(view, 3, -1)[by] for by, view in enumerate(shifted(y, axis))]
        y = parts[0] + parts[1] + parts[2]
    return y


def _pad(x: Array, axes: Sequence[int], padding: Padding) -> Array:
    """One more position at both ends of the axes."""
    widths = [(1, 1) if axis in axes else (0, 0) for axis in range(x.ndim)]
    return jnp.pad(x, widths, "constant" if padding == "zeros" else "reflect")


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

"""SCNF-GLOW and SCNF-GMM: multi-scale bodies with a conditional head."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, TypedDict, Unpack

from scnf_jax import bijectors as bj
from scnf_jax.bijectors import Bijector, Conditioner
from scnf_jax.bijectors.combinators import Memory
from scnf_jax.bijectors.coupling import Scale
from scnf_jax.bijectors.linear import Kind
from scnf_jax.conditioners import ResidualConv, ResidualMLP
from scnf_jax.options import check_choice, check_count, check_sizes
from scnf_jax.scnf import ClassProbs, SemiConditionalFlow, semi_conditional_flow

CouplingName = Literal["affine", "additive", "spline", "mixture"]
MakeConditioner = Callable[[int], Conditioner]


def coupling_pair(
    name: CouplingName, channels: int, make_conditioner: MakeConditioner, **settings: object
) -> Bijector:
    """Two couplings, so that both halves are mapped: the first given the second, then back.

    Args:
      name: ``affine``, ``additive``, ``spline`` or ``mixture``.
      channels: of the input, at least 2.
      make_conditioner: ``num_outputs -> conditioner``; called twice.
      **settings: of the coupling.

    Returns:
      A bijector on ``[batch, ..., channels]``.

    Raises:
      ValueError: if ``name`` is unknown.
    """
    per_element = {
        "affine": 2,
        "additive": 1,
        "spline": 3 * int(settings.get("num_bins", 8)) - 1,  # type: ignore[call-overload]
        "mixture": 2 + 3 * int(settings.get("num_components", 4)),  # type: ignore[call-overload]
    }
    if name not in per_element:
        raise ValueError(f"coupling: expected {', '.join(per_element)}, got {name!r}")
    layer: Callable[..., Bijector] = getattr(bj, f"{name}_coupling")
    first, second = channels // 2, channels - channels // 2
    return bj.chain(
        layer(make_conditioner(per_element[name] * first), swap=True, **settings),
        layer(make_conditioner(per_element[name] * second), **settings),
    )


def perceptron(width: int, num_blocks: int, dtype: str | None = None) -> MakeConditioner:
    """Residual perceptrons of one size, for the couplings of a vector."""
    return lambda num_outputs: ResidualMLP(num_outputs, width, num_blocks, dtype=dtype)


def flow_steps(
    num: int,
    channels: int,
    make_conditioner: MakeConditioner,
    *,
    linear: Kind = "full",
    coupling: CouplingName = "affine",
    unroll: int = 1,
    memory: Memory = "store",
    **settings: object,
) -> Bijector:
    """Steps of an actnorm, an invertible linear map, and two couplings.

    Args:
      num: how many.
      channels: of the input, at least 2.
      make_conditioner: see :func:`coupling_pair`.
      linear: kind of :func:`~scnf_jax.bijectors.invertible_linear`.
      coupling: name of the coupling.
      unroll: of :func:`~scnf_jax.bijectors.repeat`.
      memory: of :func:`~scnf_jax.bijectors.repeat`.
      **settings: of the coupling.

    Returns:
      A bijector on ``[batch, ..., channels]``.
    """
    pair = coupling_pair(coupling, channels, make_conditioner, **settings)
    step = bj.chain(bj.actnorm(), bj.invertible_linear(linear), pair)
    return bj.repeat(step, num, unroll, memory)


class BodySettings(TypedDict, total=False):
    """Keyword arguments of :func:`glow_body`, which explains them and has their defaults."""

    steps: Sequence[int]
    width: int | Sequence[int]
    num_blocks: int
    num_pointwise: int
    linear: Kind
    coupling: CouplingName
    scale: Scale
    max_log_scale: float
    alpha: float
    histogram_bins: int
    pixel_steps: int
    pixel_width: int
    vector_steps: int
    vector_width: int
    unroll: int
    memory: Memory
    split_last: int
    dtype: str | None


def glow_body(
    image_shape: Sequence[int],
    *,
    steps: Sequence[int] = (4, 4),
    width: int | Sequence[int] = 64,
    num_blocks: int = 1,
    num_pointwise: int = 0,
    linear: Kind = "full",
    coupling: CouplingName = "affine",
    scale: Scale = "sigmoid",
    max_log_scale: float = 2.0,
    alpha: float = 0.05,
    histogram_bins: int = 0,
    pixel_steps: int = 0,
    pixel_width: int = 32,
    vector_steps: int = 0,
    vector_width: int = 256,
    unroll: int = 1,
    memory: Memory = "store",
    split_last: int = 0,
    dtype: str | None = None,
) -> tuple[Bijector, tuple[int, ...]]:
    """A Glow body: levels of squeeze and flow steps, half factored out between.

    Before them stands a map of single pixels, the logit or that of their histograms. A step is an
    actnorm, an invertible linear map, and two couplings.

    Args:
      image_shape: ``(H, W, C)``; every level halves H and W.
      steps: flow steps of each level.
      width: channels inside the conditioners, of all levels or of each.
      num_blocks: residual blocks of the conditioners.
      num_pointwise: their 1x1 convolutions, see :class:`~scnf_jax.conditioners.ResidualConv`.
      linear: kind of :func:`~scnf_jax.bijectors.invertible_linear`.
      coupling: name of the coupling.
      scale: of the body's affine couplings; see :func:`~scnf_jax.bijectors.affine_coupling`.
      max_log_scale: bound of the scale ``exp``; with many steps a small one is enough, and
        training starts without accidents.
      alpha: of :func:`~scnf_jax.bijectors.logit`.
      histogram_bins: of :func:`~scnf_jax.bijectors.marginal_gaussianization`, which then takes
        the place of the logit: the number of grey levels, as 256. 0: the logit.
      pixel_steps: steps of mixture couplings on the first level's squeezed pixels, before its flow
        steps mix them. Given its neighbours a pixel is often within one grey level, as background
        is, so that its density has edges, which a mixture follows and an affine map does not; see
        :func:`~scnf_jax.bijectors.mixture_coupling`.
      pixel_width: channels inside their conditioners.
      vector_steps: flow steps on ``z_f`` as one vector, after the last level. They are those of
        the head without the label, so they run once, whatever K is.
      vector_width: of their conditioners.
      unroll: of :func:`~scnf_jax.bijectors.repeat`.
      memory: of :func:`~scnf_jax.bijectors.repeat`.
      split_last: how often half of the last level is factored out before the head, so that
        ``z_f`` is smaller.
      dtype: that conditioners compute in, ``float32`` or ``bfloat16``; None: that of ``x``.

    Returns:
      The bijector, and the shape of ``z_f``.

    Raises:
      ValueError: if there is no level, an edge cannot be halved that often, there is another
        number of widths, or a negative number of anything.
    """
    if len(image_shape) != 3:
        raise ValueError(f"glow: expected images (H, W, C), got events of shape {image_shape}")
    check_sizes("model.steps", steps)
    for name, number in (
        ("split_last", split_last),
        ("histogram_bins", histogram_bins),
        ("pixel_steps", pixel_steps),
        ("vector_steps", vector_steps),
    ):
        check_count(f"model.{name}", number)
    height, width_px, channels = image_shape
    factor = 2 ** len(steps)
    if not steps or height % factor or width_px % factor:
        raise ValueError(
            f"glow: expected image edges divisible by 2^{len(steps)} for {len(steps)} levels, got "
            f"{height}x{width_px}"
        )
    widths = width if isinstance(width, Sequence) else [width] * len(steps)
    if len(widths) != len(steps):
        raise ValueError(f"glow: expected {len(steps)} widths, one a level, got {list(widths)}")

    check_choice("model.dtype", dtype, (None, "float32", "bfloat16"))
    make_steps = functools.partial(
        flow_steps, linear=linear, coupling=coupling, unroll=unroll, memory=memory
    )
    if coupling == "affine":
        make_steps = functools.partial(make_steps, scale=scale, max_log_scale=max_log_scale)

    def conv(inside: int) -> MakeConditioner:
        return lambda num_outputs: ResidualConv(
            num_outputs, inside, num_blocks, num_pointwise, dtype=dtype
        )

    def steps_on_pixels(channels: int) -> Bijector:
        pair = coupling_pair("mixture", channels, conv(pixel_width))
        # The two halves are the rows of the squeezed blocks, then their columns.
        turned = [4 * c + pixel for c in range(channels // 4) for pixel in (0, 2, 1, 3)]
        return bj.repeat(bj.chain(pair, bj.permute(turned)), pixel_steps, unroll, memory)

    levels = []
    for index, (num, inside) in enumerate(zip(steps, widths, strict=True)):
        channels *= 4 if index == 0 else 2
        first = [steps_on_pixels(channels)] if index == 0 and pixel_steps else []
        inner = make_steps(num, channels, conv(inside))
        levels.append(bj.chain(bj.squeeze(), *first, inner))
    for _ in range(split_last):
        levels.append(bj.identity())
        channels //= 2
    z_f: tuple[int, ...] = (height // factor, width_px // factor, channels)
    if vector_steps:
        dense = perceptron(vector_width, 1, dtype)
        size = math.prod(z_f)
        on_vector = bj.chain(bj.flatten(z_f), make_steps(vector_steps, size, dense))
        levels[-1] = bj.chain(levels[-1], on_vector)
        z_f = (size,)
    pixels = bj.marginal_gaussianization(histogram_bins) if histogram_bins else bj.logit(alpha)
    return bj.chain(pixels, bj.multiscale(*levels)), z_f


def glow(
    image_shape: Sequence[int],
    num_classes: int,
    *,
    head_steps: int = 8,
    head_width: int = 64,
    head_blocks: int = 1,
    class_probs: ClassProbs = "equal",
    **body: Unpack[BodySettings],
) -> SemiConditionalFlow:
    """SCNF-GLOW: a Glow body, and a head of flow steps on ``z_f`` as one vector, given the label.

    Args:
      image_shape: ``(H, W, C)``.
      num_classes: K.
      head_steps: flow steps of the head.
      head_width: of its residual conditioners.
      head_blocks: of its residual conditioners.
      class_probs: p(y); see :func:`~scnf_jax.scnf.semi_conditional_flow`.
      **body: see :func:`glow_body`; ``linear``, ``unroll``, ``memory`` and ``dtype`` are the
        head's, too.

    Returns:
      The model.

    Raises:
      ValueError: see :func:`glow_body`.

    References:
      Atanov et al. 2019, section 4 (SCNF-GLOW), https://arxiv.org/abs/1905.00505

    Example:
      >>> import jax
      >>> model = glow((8, 8, 1), num_classes=10, steps=(1, 1), head_steps=1, width=8)
      >>> x = jax.random.uniform(jax.random.key(0), (4, 8, 8, 1))
      >>> params = model.init(jax.random.key(1), x)
      >>> model.log_posterior(params, x).shape
      (4, 10)
    """
    flow, z_f = glow_body(image_shape, **body)
    dense = perceptron(head_width, head_blocks, body.get("dtype"))
    steps = flow_steps(
        head_steps,
        math.prod(z_f),
        dense,
        linear=body.get("linear", "full"),
        unroll=body.get("unroll", 1),
        memory=body.get("memory", "store"),
    )
    head = bj.chain(bj.flatten(z_f), steps)
    return semi_conditional_flow(flow, head, num_classes, class_probs=class_probs)


def gmm(
    image_shape: Sequence[int],
    num_classes: int,
    *,
    class_probs: ClassProbs = "equal",
    **body: Unpack[BodySettings],
) -> SemiConditionalFlow:
    """SCNF-GMM: a Glow body, and one Gaussian a class on ``z_f``.

    Args:
      image_shape: ``(H, W, C)``.
      num_classes: K.
      class_probs: p(y); see :func:`~scnf_jax.scnf.semi_conditional_flow`.
      **body: see :func:`glow_body`.

    Returns:
      The model.

    Raises:
      ValueError: see :func:`glow_body`.

    References:
      Atanov et al. 2019, section 4 (SCNF-GMM), https://arxiv.org/abs/1905.00505
    """
    flow, _ = glow_body(image_shape, **body)
    head = bj.conditional_shift(start_scale=0.1)
    return semi_conditional_flow(flow, head, num_classes, class_probs=class_probs)

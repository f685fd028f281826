"""The networks of the authors' code, item by item."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from scnf_jax import bijectors as bj
from scnf_jax.bijectors import Bijector, Conditioner
from scnf_jax.conditioners import ResidualConv, ResidualMLP
from scnf_jax.models.glow import MakeConditioner, coupling_pair
from scnf_jax.scnf import SemiConditionalFlow, semi_conditional_flow

Head = Literal["glow", "gmm"]
_SQUEEZES = (True, True, False)


def paper(
    image_shape: Sequence[int] = (28, 28, 1),
    num_classes: int = 10,
    *,
    head: Head = "glow",
    width: int = 64,
    num_blocks: int = 4,
    head_steps: int = 4,
    head_width: int = 256,
    head_blocks: int = 4,
    alpha: float = 0.05,
) -> SemiConditionalFlow:
    """The model of the paper's MNIST table; with default settings the authors' own sizes.

    The body has three scales. Each is three steps ``[W, masked coupling, actnorm]`` with
    checkerboards 0, 1, 0; a squeeze, but for the last scale; and two steps
    ``[W, channel coupling, actnorm]``. The first half of the channels is factored out
    after the first two scales. ``W`` is a full matrix that starts at the identity.

    The head ``glow`` sees ``z_f`` as one vector, channel first, and a learned row per
    label that starts at the identity: ``head_steps`` steps ``[actnorm, W, channel
    coupling]``, half factored out, and as many steps again. The head ``gmm`` subtracts a
    learned mean per class.

    Args:
      image_shape: ``(H, W, C)`` with H and W divisible by 4.
      num_classes: K.
      head: ``glow`` or ``gmm``.
      width: channels inside the body's conditioners.
      num_blocks: residual blocks of the body's conditioners.
      head_steps: of each half of the head.
      head_width: of the head's conditioners.
      head_blocks: residual blocks of the head's conditioners.
      alpha: of :func:`~scnf_jax.bijectors.logit`.

    Returns:
      The model. With the default settings the body has 6,299,987 parameters and the head
      9,574,676, the label embedding's 100 included.

    Raises:
      ValueError: where the images do not fit, or ``head`` is unknown.

    References:
      Atanov et al. 2019, section 4, https://arxiv.org/abs/1905.00505, and the code beside
      it, https://github.com/SamsungLabs/semi-supervised-NFs
    """
    if len(image_shape) != 3 or image_shape[0] % 4 or image_shape[1] % 4:
        raise ValueError(
            f"paper: expected images (H, W, C) with H and W divisible by 4, got {image_shape}"
        )
    if head not in ("glow", "gmm"):
        raise ValueError(f"paper: expected head 'glow' or 'gmm', got {head!r}")

    def conv(num_outputs: int) -> Conditioner:
        return ResidualConv(num_outputs, width, num_blocks, padding="reflect", normalize=True)

    def dense(num_outputs: int) -> Conditioner:
        return ResidualMLP(num_outputs, head_width, head_blocks, normalize=True)

    height, width_px, channels = image_shape
    scales = []
    for squeezes in _SQUEEZES:
        parts = [_masked_step(channels, board, conv) for board in (0, 1, 0)]
        if squeezes:
            # The authors' order of the new channels: row and column of the block, channel.
            order = np.arange(4 * channels).reshape(channels, 4).T.reshape(-1)
            parts += [bj.squeeze(), bj.permute(order.tolist())]
            height, width_px, channels = height // 2, width_px // 2, channels * 4
        parts.append(bj.repeat(_channel_step(channels, conv), 2))
        scales.append(bj.chain(*parts))
        if squeezes:
            channels //= 2
    body = bj.chain(bj.logit(alpha), bj.multiscale(*scales))
    if head == "gmm":
        return semi_conditional_flow(body, bj.conditional_shift(start_scale=0.1), num_classes)
    z_f = (height, width_px, channels)
    return semi_conditional_flow(
        body, _glow_head(z_f, head_steps, dense), num_classes, embed_labels=True
    )


def _linear() -> Bijector:
    return bj.invertible_linear("full", start="identity")


def _masked_step(channels: int, board: int, conditioner: MakeConditioner) -> Bijector:
    coupling = bj.affine_coupling(conditioner(2 * channels), split="checkerboard", swap=board == 1)
    return bj.chain(_linear(), coupling, bj.actnorm())


def _channel_coupling(channels: int, conditioner: MakeConditioner) -> Bijector:
    return coupling_pair("affine", channels, conditioner, shift_first=True, epsilon=1e-6)


def _channel_step(channels: int, conditioner: MakeConditioner) -> Bijector:
    return bj.chain(_linear(), _channel_coupling(channels, conditioner), bj.actnorm())


def _glow_head(z_f: tuple[int, int, int], steps: int, conditioner: MakeConditioner) -> Bijector:
    size = math.prod(z_f)

    def half(num: int) -> Bijector:
        step = bj.chain(bj.actnorm(), _linear(), _channel_coupling(num, conditioner))
        return bj.repeat(step, steps)

    channel_first = np.arange(size).reshape(z_f).transpose(2, 0, 1).reshape(-1)
    return bj.chain(
        bj.flatten(z_f),
        bj.permute(channel_first.tolist()),
        bj.multiscale(half(size), half(size // 2)),
    )

"""A plain classifier p(y|x): what consistency gives without a density, and a teacher for one."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from scnf_jax.bijectors.base import Array, Conditioner, Params
from scnf_jax.conditioners import ConvNet


class Classifier(NamedTuple):
    """A network with ``log p(y|x)`` and nothing else: no density, no latents, no samples.

    Attributes:
      num_classes: K.
      init: ``(key, x) -> params``.
      log_posterior: ``(params, x) -> [batch, K]``, ``log p(y = k | x)``.
    """

    num_classes: int
    init: Callable[[Array, Array], Params]
    log_posterior: Callable[[Params, Array], Array]


def classifier(
    event_shape: Sequence[int], num_classes: int, *, width: int = 24, hidden: int = 128
) -> Classifier:
    """A small convolutional classifier of images.

    The trainer takes it like a flow whose ``p(x)`` is 1: the likelihood of an object without a
    label is then constant, that of one with a label is ``log p(y|x)``, and consistency on random
    views does the rest.

    Args:
      event_shape: of one image ``(H, W, C)``, edges divisible by 4.
      num_classes: K.
      width: see :class:`~scnf_jax.conditioners.ConvNet`.
      hidden: see there.

    Returns:
      The model.

    Raises:
      ValueError: for vectors or other edges; from ``init``, for widths that do not fit.

    Example:
      >>> model = classifier((8, 8, 1), num_classes=10, width=4, hidden=8)
      >>> x = jax.random.uniform(jax.random.key(0), (5, 8, 8, 1))
      >>> params = model.init(jax.random.key(1), x)
      >>> model.log_posterior(params, x).shape
      (5, 10)
    """
    if len(event_shape) != 3 or event_shape[0] % 4 or event_shape[1] % 4:
        raise ValueError(
            "model classifier: expected images (H, W, C) with edges divisible by 4, got events of "
            f"shape {tuple(event_shape)}"
        )
    net: Conditioner = ConvNet(num_classes, width, hidden)

    def log_posterior(params: Params, x: Array) -> Array:
        return jax.nn.log_softmax(net.apply(params, x), -1)

    return Classifier(num_classes, net.init, log_posterior)

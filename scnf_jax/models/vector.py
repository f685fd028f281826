"""A flow for vectors, such as points in the plane."""

from collections.abc import Sequence

from scnf_jax import bijectors as bj
from scnf_jax.bijectors.combinators import Memory
from scnf_jax.bijectors.linear import Kind
from scnf_jax.conditioners import MLP
from scnf_jax.models.glow import CouplingName, flow_steps
from scnf_jax.scnf import ClassProbs, SemiConditionalFlow, semi_conditional_flow


def vector(
    event_shape: Sequence[int],
    num_classes: int,
    *,
    steps: int = 4,
    head_steps: int = 4,
    hidden: Sequence[int] = (64, 64),
    num_features: int | None = None,
    linear: Kind = "lu",
    coupling: CouplingName = "spline",
    class_probs: ClassProbs = "equal",
    unroll: int = 1,
    memory: Memory = "store",
) -> SemiConditionalFlow:
    """Coupling steps with perceptrons on vectors, in body and head.

    Args:
      event_shape: ``(D,)`` with D at least 2.
      num_classes: K.
      steps: flow steps of the body.
      head_steps: flow steps of the head.
      hidden: widths of the conditioners' layers.
      num_features: D that other settings, such as the noise, were made for. None: any.
      linear: kind of the linear maps.
      coupling: name of the coupling.
      class_probs: p(y); see :func:`~scnf_jax.scnf.semi_conditional_flow`.
      unroll: of the scans over layers.
      memory: what gradients keep; see :func:`~scnf_jax.bijectors.repeat`.

    Returns:
      The model.

    Raises:
      ValueError: unless events are vectors of at least two elements, and as many as expected.

    References:
      Atanov et al. 2019, section 4 (toy experiments), https://arxiv.org/abs/1905.00505

    Example:
      >>> import jax
      >>> model = vector((2,), num_classes=2, steps=1, head_steps=1)
      >>> x = jax.random.normal(jax.random.key(0), (5, 2))
      >>> params = model.init(jax.random.key(1), x)
      >>> model.log_prob(params, x).shape
      (5,)
    """
    if len(event_shape) != 1 or event_shape[0] < 2:
        raise ValueError(f"vector: expected events of shape (D,), D >= 2, got {tuple(event_shape)}")
    if num_features not in (None, event_shape[0]):
        raise ValueError(
            f"model.num_features: expected the number of features, {event_shape[0]}, got "
            f"{num_features}; with configs/vectors.py it is the number behind the colon"
        )

    def flow(num: int) -> bj.Bijector:
        return flow_steps(
            num,
            event_shape[0],
            lambda num_outputs: MLP(num_outputs, tuple(hidden)),
            linear=linear,
            coupling=coupling,
            unroll=unroll,
            memory=memory,
        )

    body = bj.chain(flow(steps), bj.actnorm())
    return semi_conditional_flow(body, flow(head_steps), num_classes, class_probs=class_probs)


def default_noise(num_features: int) -> float:
    """Noise on standardised features, for training: 0.02 a feature, from 0.1 to 0.3.

    Two features keep their fine structure so, and the density of many is not overfitted.
    """
    return min(max(0.02 * num_features, 0.1), 0.3)


def default_temperature(num_features: int) -> float:
    """Temperature of the terms of the classes: an eighth of the features, at least 1."""
    return max(num_features / 8, 1.0)


def default_prior_precision(num_features: int) -> float:
    """Precision of the prior on the parameters: half the number of features, at most 4.

    Two features take sharp bends, which need large weights; many are overfitted by such.
    """
    return min(num_features / 2, 4.0)

"""What is optimised: the exact marginal, EM, classification, consistency.

All terms are in nats per object. Weights are relative to the log-likelihood of one whole object;
divided by its number of dimensions they are relative to nats per dimension.
"""

import jax
import jax.numpy as jnp

from scnf_jax.scnf import select_label

Array = jax.Array
_RAREST = 1e-6


def marginal_log_likelihood(log_joint: Array, label: Array) -> Array:
    """``log p(x, y)`` of labelled rows, the exact ``log p(x)`` of rows with label -1.

    Args:
      log_joint: ``[batch, K]``.
      label: ``[batch]``.

    Returns:
      ``[batch]``, to be ascended.
    """
    return select_label(log_joint, label)


def expected_log_likelihood(
    log_joint: Array, label: Array, target_log_joint: Array, temperature: float = 1.0
) -> Array:
    r"""The M-step of EM: ``sum_y q(y) log p(x, y)``, with ``log p(x, y)`` of labelled rows.

    ``q(y) = p(y | x)`` under the target parameters, without gradient. Where these are
    the current parameters the gradient is that of :func:`marginal_log_likelihood`:

    .. math:: \nabla \log p(x) = \sum_y p(y|x)\, \nabla \log p(x, y)

    Args:
      log_joint: ``[batch, K]`` under the parameters that are trained.
      label: ``[batch]``, -1 for "not known".
      target_log_joint: ``[batch, K]`` under the parameters of the last E-step.
      temperature: divides ``target_log_joint``: above 1 ``q`` stays soft, and an early
        mistake is not taken for certain (deterministic annealing EM). Then the sum is no
        longer the marginal's gradient, but still, with the entropy of ``q``, a lower bound
        on ``log p(x)``.

    Returns:
      ``[batch]``, to be ascended.

    References:
      Ueda, Nakano 1998, "Deterministic annealing EM algorithm", section 3;
      Dempster, Laird, Rubin 1977, "Maximum Likelihood from Incomplete Data via the EM
      Algorithm"; Atanov et al. 2019, section 3 (EM-SGD), https://arxiv.org/abs/1905.00505
    """
    q = jax.nn.softmax(jax.lax.stop_gradient(target_log_joint) / temperature, -1)
    return jnp.where(label < 0, _expectation(q, log_joint), select_label(log_joint, label))


def cross_entropy(log_joint: Array, label: Array, temperature: float = 1.0) -> Array:
    """``-log p(y | x)`` of labelled rows, 0 of the others.

    Args:
      log_joint: ``[batch, K]``.
      label: ``[batch]``, -1 for "not known".
      temperature: divides ``log_joint`` first.

    Returns:
      ``[batch]``, to be descended.
    """
    log_posterior = jax.nn.log_softmax(log_joint / temperature, -1)
    return jnp.where(label < 0, 0.0, -select_label(log_posterior, label))


def consistency(
    log_joint: Array,
    target_log_joint: Array,
    label: Array,
    temperature: float = 1.0,
    confidence: float = 0.0,
    sharpening: float = 1.0,
    class_share: Array | None = None,
) -> Array:
    """Cross-entropy of a second view's posterior to what the first view says.

    The target is the label where it is known, else the posterior of the first view,
    without gradient.

    Args:
      log_joint: ``[batch, K]`` of the second view.
      target_log_joint: ``[batch, K]`` of the first view.
      label: ``[batch]``, -1 for "not known".
      temperature: divides both log-joints first.
      confidence: rows without a label count only where the target's largest
        probability reaches it.
      sharpening: power of the target's probabilities, before they are normalised again.
      class_share: how often the targets name each class ``[K]``; the target's probabilities
        are divided by it first, so that no class swallows its neighbours; a share below 1e-6
        counts as that. None: they are not.

    Returns:
      ``[batch]``, to be descended.

    References:
      Izmailov et al. 2020, "Semi-Supervised Learning with Normalizing Flows", section
      3.3 (FlowGMM-cons), https://arxiv.org/abs/1912.13025; Berthelot et al. 2019,
      "MixMatch", section 3.2 (sharpening), https://arxiv.org/abs/1905.02249; Berthelot et
      al. 2020, "ReMixMatch", section 3.1 (distribution alignment),
      https://arxiv.org/abs/1911.09785
    """
    target = jax.lax.stop_gradient(target_log_joint) / temperature
    if class_share is not None:
        target = target - jnp.log(jnp.maximum(class_share, _RAREST))
    q = jax.nn.softmax(sharpening * target, -1)
    log_posterior = jax.nn.log_softmax(log_joint / temperature, -1)
    sure = jnp.max(q, -1) >= confidence
    unlabelled = jnp.where(sure, -_expectation(q, log_posterior), 0.0)
    return jnp.where(label < 0, unlabelled, cross_entropy(log_joint, label, temperature))


def _expectation(q: Array, value: Array) -> Array:
    """``sum_k q_k value_k``; what has no probability adds nothing, were it infinite."""
    return jnp.sum(jnp.where(q > 0, q * value, 0.0), -1)


def named_share(
    target_log_joint: Array, unlabelled_weight: Array, temperature: float = 1.0
) -> Array:
    """How often targets name each class: their mean over rows without a label.

    Args:
      target_log_joint: ``[batch, K]``.
      unlabelled_weight: ``[batch]``, the :func:`mean_weight` of rows without a label.
      temperature: divides ``target_log_joint`` first.

    Returns:
      ``[K]``, with sum 1; 0 each where every row has a label.
    """
    q = jax.nn.softmax(jax.lax.stop_gradient(target_log_joint) / temperature, -1)
    return jnp.mean(unlabelled_weight[:, None] * q, 0)


def mean_weight(chosen: Array, chosen_of_all: Array) -> Array:
    """Weights under which a mean over rows is one over the chosen rows alone.

    With them every term of a loss is a mean over rows, and the mean over devices that hold as
    many rows each is the mean over the batch.

    Args:
      chosen: booleans ``[rows]``, of some rows of a batch.
      chosen_of_all: booleans ``[batch]``, of all.

    Returns:
      float32 ``[rows]``; 0 for other rows, and for all where none of the batch is chosen.

    Example:
      >>> chosen = jnp.array([True, False, False, True])
      >>> mean_weight(chosen[:2], chosen)
      Array([2., 0.], dtype=float32)
    """
    share = jnp.mean(chosen_of_all)
    return jnp.where(chosen, 1 / jnp.maximum(share, 1 / chosen_of_all.size), 0.0)

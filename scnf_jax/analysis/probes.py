"""How much a representation tells about the class: classifiers trained on it."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from scnf_jax.bijectors.base import Array, Params


class Probe(Protocol):
    """A classifier in scikit-learn's manner."""

    def fit(self, z: np.ndarray, y: np.ndarray) -> Any:
        """Learns from ``z [N, D]`` and ``y [N]``."""
        ...

    def predict_proba(self, z: np.ndarray) -> np.ndarray:
        """``p(y|z) [N, K]`` over the classes that ``fit`` saw, in order."""
        ...


class ProbeResult(NamedTuple):
    """How well one probe reads the class.

    Attributes:
      accuracy_percent: on the test objects.
      low_percent: lower end of the accuracy's 95% interval.
      high_percent: upper end of it.
      information_bits: lower bound on the mutual information between representation and
        class; see :func:`information_bits`.
    """

    accuracy_percent: float
    low_percent: float
    high_percent: float
    information_bits: float


class MLPProbe:
    """The authors' leak probe: D-256-256-256-256-K, LeakyReLU, dropout .3, Adam.

    Adam's rate falls linearly from 1e-3 to 0; batches of 256.

    Args:
      epochs: over the train objects.
      seed: of weights, order and dropout.

    References:
      the code beside Atanov et al. 2019, https://arxiv.org/abs/1905.00505
    """

    widths = (256, 256, 256, 256)
    dropout = 0.3
    batch_size = 256

    def __init__(self, epochs: int = 100, seed: int = 0) -> None:
        self.epochs, self.seed = epochs, seed

    def fit(self, z: np.ndarray, y: np.ndarray) -> "MLPProbe":
        """Trains on ``z [N, D]`` and labels ``y [N]``."""
        self.classes_, index = np.unique(y, return_inverse=True)
        sizes = (z.shape[1], *self.widths, len(self.classes_))
        init_key, train_key = jax.random.split(jax.random.key(self.seed))
        params = _dense_layers(init_key, sizes)
        steps = self.epochs * max(len(z) // self.batch_size, 1)
        transform = optax.adam(optax.linear_schedule(1e-3, 0.0, steps))
        batch = min(self.batch_size, len(z))
        data, target = jnp.asarray(z, jnp.float32), jnp.asarray(index)

        def loss(params: Params, key: Array, rows: Array) -> Array:
            logits = _network(params, data[rows], key, self.dropout)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, target[rows])
            return jnp.mean(losses)

        def step(carry: Any, number: Array) -> tuple[Any, None]:
            params, state = carry
            rows_key, drop_key = jax.random.split(jax.random.fold_in(train_key, number))
            rows = jax.random.choice(rows_key, len(data), (batch,), replace=False)
            grads = jax.grad(loss)(params, drop_key, rows)
            updates, state = transform.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        run = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(steps))[0])
        self._params = run((params, transform.init(params)))[0]
        return self

    def predict_proba(self, z: np.ndarray) -> np.ndarray:
        """``p(y|z) [N, K]``."""
        logits = _network(self._params, jnp.asarray(z, jnp.float32), None, 0.0)
        return np.asarray(jax.nn.softmax(logits, -1), np.float64)


def _dense_layers(key: Array, sizes: Sequence[int]) -> Params:
    keys = jax.random.split(key, len(sizes) - 1)
    return tuple(
        {
            "kernel": jax.random.normal(k, (before, after)) * math.sqrt(2.0 / before),
            "bias": jnp.zeros(after),
        }
        for k, before, after in zip(keys, sizes[:-1], sizes[1:], strict=True)
    )


def _network(params: Params, h: Array, key: Array | None, dropout: float) -> Array:
    for number, layer in enumerate(params):
        h = h @ layer["kernel"] + layer["bias"]
        if number + 1 < len(params):
            h = jax.nn.leaky_relu(h, 0.01)
            if key is not None:
                kept = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - dropout, h.shape)
                h = jnp.where(kept, h / (1 - dropout), 0.0)
    return h


def _logistic_regression(seed: int) -> Probe:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=500, random_state=seed)


def _nearest_neighbours(seed: int) -> Probe:
    from sklearn.neighbors import KNeighborsClassifier

    del seed
    return KNeighborsClassifier(n_neighbors=10)


def _gradient_boosting(seed: int) -> Probe:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=15, early_stopping=False, random_state=seed
    )


PROBES: dict[str, Callable[[int], Probe]] = {
    "mlp": lambda seed: MLPProbe(seed=seed),
    "logistic_regression": _logistic_regression,
    "nearest_neighbours": _nearest_neighbours,
    "gradient_boosting": _gradient_boosting,
}


def run_probe(
    probe: Probe,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    num_classes: int,
) -> ProbeResult:
    """Trains a probe on some objects and tests it on others.

    Args:
      probe: not trained yet.
      train: representation ``[N, D]`` and labels ``[N]``.
      test: of other objects.
      num_classes: K.

    Returns:
      Accuracy with its interval. Both representations are standardised with the mean and
      deviation of the train objects.

    Raises:
      ValueError: where a part is empty or the widths differ.
    """
    (z, y), (test_z, test_y) = train, test
    if not len(z) or not len(test_z) or z.shape[1] != test_z.shape[1]:
        raise ValueError(
            f"probe: expected train and test objects of one width, got {z.shape} and {test_z.shape}"
        )
    mean, deviation = z.mean(0), z.std(0)
    deviation = np.where(deviation > 1e-6, deviation, 1.0)
    probe.fit((z - mean) / deviation, y)
    probs = np.zeros((len(test_z), num_classes))
    probs[:, np.unique(y)] = probe.predict_proba((test_z - mean) / deviation)
    right = int(np.sum(np.argmax(probs, -1) == test_y))
    low, high = wilson_interval(right, len(test_y))
    return ProbeResult(
        100.0 * right / len(test_y), 100.0 * low, 100.0 * high, information_bits(probs, test_y)
    )


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a proportion; with the default ``z`` at 95%.

    Example:
      >>> low, high = wilson_interval(50, 100)
      >>> round(low, 3), round(high, 3)
      (0.404, 0.596)

    References:
      Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference"
    """
    share = successes / trials
    denominator = 1 + z**2 / trials
    middle = share + z**2 / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return max((middle - spread) / denominator, 0.0), min((middle + spread) / denominator, 1.0)


def information_bits(probs: np.ndarray, labels: np.ndarray) -> float:
    r"""Lower bound on the mutual information between a representation and the class.

    .. math:: I(Z; Y) \ge H(Y) + \mathbb{E} \log_2 q(y|z)

    for any ``q``. One that is too sure of itself makes the bound loose, so a hundredth of
    the uniform distribution is mixed in; never below 0, which is always a bound.

    Args:
      probs: ``q(y|z) [N, K]``.
      labels: ``[N]``.

    Returns:
      Bits.

    References:
      Barber, Agakov 2003, "The IM Algorithm: A Variational Approach to Information
      Maximization", section 2
    """
    mixed = 0.99 * probs[np.arange(len(labels)), labels] + 0.01 / probs.shape[1]
    return float(max(class_entropy_bits(labels) + np.mean(np.log2(mixed)), 0.0))


def class_entropy_bits(labels: np.ndarray) -> float:
    """H(y) of labels ``[N]``, in bits: more information on the class there cannot be.

    Example:
      >>> class_entropy_bits(np.array([0, 1, 2, 3]))
      2.0
    """
    share = np.bincount(labels) / len(labels)
    share = share[share > 0]
    return float(-np.sum(share * np.log2(share)))

"""The model behind scikit-learn's interface: ``fit``, ``predict``, -1 for a label not known."""

import functools
import numbers
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from scnf_jax import parallel
from scnf_jax.bijectors.base import Array
from scnf_jax.data.batches import padded, slices
from scnf_jax.losses import AugmentOptions, ObjectiveOptions
from scnf_jax.metrics import log_posterior_of
from scnf_jax.models import vector
from scnf_jax.models.glow import CouplingName
from scnf_jax.models.vector import default_noise, default_prior_precision, default_temperature
from scnf_jax.options import check_positive, check_range, check_sizes
from scnf_jax.scnf import ClassProbs, SemiConditionalFlow, checked_class_probs
from scnf_jax.training import (
    Diverged,
    OptimizerOptions,
    Trainer,
    has_diverged,
    make_data,
    make_trainer,
    usable_params,
)

_ROWS = 256  # that go through a fitted model at a time
_MAX_STEPS_PER_CALL = 50
_NO_GAPS = "expected -1 for a label that is not known"


class _Architecture(NamedTuple):
    """What the fitted parameters fit to."""

    num_features: int
    num_classes: int
    body_steps: int
    head_steps: int
    hidden: tuple[int, ...]
    coupling: CouplingName
    class_probs: ClassProbs


class SCNFClassifier(ClassifierMixin, BaseEstimator):
    r"""A semi-conditional normalizing flow as a semi-supervised classifier of vectors.

    With ``x`` standardised, a body that sees no label and a head under every label,

    .. math::
        \log p(x, y) &= \log|\det \mathrm{body}| + \log|\det \mathrm{head}_y| + \log p(z_h)
            + \log p(y) \\
        \log p(x) &= \mathrm{logsumexp}_y \log p(x, y), \qquad
        \log p(y|x) = \mathrm{log\,softmax}_y \log p(x, y),

    exactly. Training ascends ``log p(x, y)`` of samples with a label and ``log p(x)`` of the
    others, by Adam. Two more terms see ``log p(x, y) / temperature``: the cross-entropy of labelled
    samples, and that between what two looks at a sample, each with noise of its own, say of its
    class.

    Images do better with the convolutional flows of ``train.py``.

    Args:
      steps: of training; fastest as a multiple of 50, which are then taken in one call.
      batch_size: samples of a step, drawn with replacement; a multiple of the number of devices.
      learning_rate: of Adam at the start; falls to 0 by a cosine.
      body_steps: flow steps of the body.
      head_steps: flow steps of the head.
      hidden: widths of the conditioners' layers, or the one of a single layer.
      coupling: ``affine``, ``additive``, ``spline`` or ``mixture``; the last two bend more, and
        take several times as long.
      class_probs: p(y), how often a class is met: ``learned``, from samples without a label, too,
        an estimate that is the better the less classes overlap; ``equal``, 1/K; or numbers with sum
        1, in the order of ``classes_``.
      noise: standard deviation of the normal noise on what training sees, in standard deviations
        of each feature. The density learnt is that of noisy samples: it stays finite where
        features are constant, rounded or repeated, and smooth. None: 0.02 a feature, but at least
        0.1, so that two features keep their fine structure, and at most 0.3.
      labelled_share: of labelled samples in a batch, at least; drawn more often where they are
        fewer than that, and then the density, too, is one of samples drawn so. 0: as in the data.
      classification_weight: of the cross-entropy of labelled samples, in nats a sample.
      consistency_weight: of the consistency.
      temperature: see above; None: an eighth of the number of features, at least 1. Both
        weights are multiplied by it, so that the terms' gradients keep their size.
      prior_precision: of the normal prior ``N(0, 1 / prior_precision)`` on every parameter, whose
        negative logarithm is divided by the number of samples, as ``MLPClassifier``'s ``alpha`` is.
        It keeps the density of few samples from being overfitted to them; 0: no prior. None: half
        the number of features, at most 4.
      random_state: seed of weights, order and noise.

    Attributes:
      classes_: the classes ``[K]``, sorted; results have a column for each, in this order.
      class_probs_: p(y), of each class ``[K]``.
      transduction_: labels of the samples of ``fit``: the given ones, else the most likely.
      n_features_in_: number of features D.
      feature_names_in_: their names, where ``fit`` was given a data frame.
      n_iter_: steps taken.
      loss_curve_: of every step, in nats a sample.
      scaler_: the ``StandardScaler`` that samples go through.
      params_: of :attr:`flow_`, as NumPy arrays.

    References:
      Atanov et al. 2019, section 3, https://arxiv.org/abs/1905.00505

    Example:
      >>> from sklearn.datasets import make_moons
      >>> X, y = make_moons(200, noise=0.1, random_state=0)
      >>> few = np.where(np.arange(200) < 10, y, -1)
      >>> flow = SCNFClassifier(steps=2, body_steps=1, head_steps=1, random_state=0).fit(X, few)
      >>> flow.predict_proba(X).shape, flow.score_samples(X).shape
      ((200, 2), (200,))
    """

    def __init__(
        self,
        *,
        steps: int = 800,
        batch_size: int = 256,
        learning_rate: float = 2e-3,
        body_steps: int = 3,
        head_steps: int = 2,
        hidden: Sequence[int] | int = (64, 64),
        coupling: CouplingName = "affine",
        class_probs: ClassProbs = "learned",
        noise: float | None = None,
        labelled_share: float = 0.05,
        classification_weight: float = 1.0,
        consistency_weight: float = 1.0,
        temperature: float | None = None,
        prior_precision: float | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.body_steps = body_steps
        self.head_steps = head_steps
        self.hidden = hidden
        self.coupling = coupling
        self.class_probs = class_probs
        self.noise = noise
        self.labelled_share = labelled_share
        self.classification_weight = classification_weight
        self.consistency_weight = consistency_weight
        self.temperature = temperature
        self.prior_precision = prior_precision
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "SCNFClassifier":
        """Trains from the start; where it fails, what an earlier fit has learnt stays.

        Args:
          X: samples ``[N, D]`` with D at least 2.
          y: their labels ``[N]``, integers or words; -1 for "not known", also beside a class 1.
            Words need ``dtype=object`` to have the number -1 among them.

        Returns:
          Itself.

        Raises:
          ValueError: for data or settings that cannot be.
          Diverged: after 20 steps in a row that were not finite, or all but the first of fewer.
        """
        before = self.__dict__.copy()
        try:
            self._fit(X, y)
        except BaseException:  # Ctrl-C, too
            self.__dict__ = before
            raise
        return self

    def _fit(self, X: Any, y: Any) -> None:
        try:
            X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_features=2)
        except ValueError as error:
            if re.match(r"Input (y )?contains NaN", str(error)):  # of X it says so
                raise ValueError(f"y: {_NO_GAPS}, got NaN") from error
            raise
        known = _known(y)
        given = _plain(y[known])
        check_classification_targets(given)
        classes, codes = np.unique(given, return_inverse=True)
        if len(classes) == 1 and not known.all():
            warnings.warn(
                f"y: {classes.tolist()[0]!r} is the only class, since -1 is a label that is not "
                "known; where it is a class of yours, give it another number",
                stacklevel=3,
            )
        labels = np.full(len(y), -1, np.int32)
        labels[known] = codes
        architecture = self._checked_architecture(X.shape[1], len(classes))
        trainer = self._trainer(architecture)
        with np.errstate(over="ignore", invalid="ignore"):  # refused below
            scaler = StandardScaler().fit(X)
            lost = (scaler.var_ == 0) & (np.ptp(X, 0) > 0)
        x = _standardised(scaler, X)
        if lost.any() or not np.isfinite(x).all():
            raise ValueError(
                "X: expected features that can be standardised, got some so large that their mean "
                "or deviation overflows, or so small that it underflows; multiply them by a power "
                "of ten"
            )
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        capacity = 1 << (len(x) - 1).bit_length()
        data = make_data(x, labels, parallel.data_mesh(), seed, capacity)
        state, curve = trainer.init(data), []
        for step in range(0, self.steps, self._steps_per_call):
            state, metrics = trainer.run_chunk(state, data)
            losses, in_a_row = jax.device_get((metrics["loss"], state.skipped_in_a_row))
            curve += losses.tolist()
            if has_diverged(in_a_row, self.steps):
                raise Diverged(in_a_row, step + self._steps_per_call, "lower learning_rate")
        self.classes_, self.scaler_, self._architecture = classes, scaler, architecture
        self.n_iter_, self.loss_curve_ = self.steps, curve
        self.params_ = jax.device_get(usable_params(state))
        probs = np.exp(np.float64(self.flow_.log_class_probs(self.params_)))
        self.class_probs_ = probs / probs.sum()  # of float32 not exactly 1
        self.transduction_ = y.copy()
        self.transduction_[~known] = classes[self._log_posterior(x[~known]).argmax(-1)]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "params_")

    def predict(self, X: Any) -> np.ndarray:
        """The most likely class of each sample ``[N]``."""
        codes = self.predict_log_proba(X).argmax(-1)
        return self.classes_[codes]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy over the samples whose label is known, those with another than -1.

        Cross-validation and grid search take it where their ``scoring`` is not given; the scorers
        that scikit-learn has by name count a -1 as a class.

        Args:
          X: samples ``[N, D]``.
          y: their labels, at least one of them known.
          sample_weight: of each sample ``[N]``.

        Returns:
          A share of 1.

        Raises:
          ValueError: where no label is known.
        """
        y = column_or_1d(y)
        check_consistent_length(X, y, sample_weight)
        known = _known(y)
        weight = None if sample_weight is None else np.asarray(sample_weight)[known]
        return float(accuracy_score(_plain(y[known]), self.predict(X)[known], sample_weight=weight))

    def predict_proba(self, X: Any) -> np.ndarray:
        """``p(y|x) [N, K]``, the columns in the order of ``classes_``."""
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """``log p(y|x) [N, K]``, the columns in the order of ``classes_``.

        That of ``p(y)`` where a sample is so far out that ``log p(x)`` is ``-inf`` in float32.
        """
        return self._log_posterior(self._checked(X))

    def score_samples(self, X: Any) -> np.ndarray:
        """``log p(x) [N]``, in nats, of a density over the features in their own units."""
        log_prob = np.logaddexp.reduce(self._log_joint(self._checked(X)), -1)
        return log_prob - np.sum(np.log(self.scaler_.scale_))

    def sample(
        self,
        n_samples: int = 1,
        label: Any = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws from ``p(x|y)``.

        Args:
          n_samples: how many.
          label: the class of all of them; None: one drawn from ``p(y)`` for each.
          random_state: seed of the draw.

        Returns:
          Samples ``[n_samples, D]`` and their classes ``[n_samples]``.

        Raises:
          ValueError: for a number below 1, or a class that ``fit`` has not seen.
        """
        check_is_fitted(self)
        check_positive("n_samples", n_samples)
        random = check_random_state(random_state)
        if label is None:
            codes = random.choice(len(self.classes_), size=n_samples, p=self.class_probs_)
        else:
            if np.ndim(label) or not (self.classes_ == label).any():
                raise ValueError(f"label: expected one of {self.classes_.tolist()}, got {label!r}")
            codes = np.full(n_samples, np.argmax(self.classes_ == label))
        key = jax.random.key(random.randint(np.iinfo(np.int32).max))
        draw, parts = _flow(self._architecture).sample, []
        for part in slices(n_samples, _ROWS):
            key, part_key = jax.random.split(key)
            drawn = draw(self.params_, part_key, padded(codes[part], _ROWS))
            parts.append(np.asarray(drawn, np.float64)[: part.stop - part.start])
        return self.scaler_.inverse_transform(np.concatenate(parts)), self.classes_[codes]

    @property
    def flow_(self) -> SemiConditionalFlow:
        """The model, whose parameters are ``params_``, of samples that ``scaler_`` has seen."""
        check_is_fitted(self)
        return _flow(self._architecture).model

    def _checked_architecture(self, num_features: int, num_classes: int) -> _Architecture:
        for name in ("steps", "batch_size", "body_steps", "head_steps"):
            check_positive(name, getattr(self, name))
        widths = tuple(np.atleast_1d(self.hidden).tolist())
        check_sizes("hidden", widths)
        return _Architecture(
            num_features,
            num_classes,
            self.body_steps,
            self.head_steps,
            widths,
            self.coupling,
            checked_class_probs(self.class_probs, num_classes),
        )

    @property
    def _steps_per_call(self) -> int:
        return max(n for n in range(1, _MAX_STEPS_PER_CALL + 1) if self.steps % n == 0)

    def _trainer(self, architecture: _Architecture) -> Trainer:
        for name in ("learning_rate", "classification_weight", "consistency_weight"):
            check_range(name, getattr(self, name), 0.0)
        check_range("labelled_share", self.labelled_share, 0.0, 1.0)
        noise = self._or_default("noise", default_noise(architecture.num_features))
        temperature = self._or_default(
            "temperature", default_temperature(architecture.num_features), 1e-6
        )
        prior_precision = self._or_default(
            "prior_precision", default_prior_precision(architecture.num_features)
        )
        objective = ObjectiveOptions(
            classification_weight=self.classification_weight * temperature,
            consistency_weight=self.consistency_weight * temperature,
            temperature=temperature,
            prior_precision=prior_precision,
        )
        optimizer = OptimizerOptions(
            learning_rate=self.learning_rate, schedule="cosine", clip_norm=5.0, ema_decay=0.99
        )
        return _trainer(
            architecture,
            self.steps,
            self._steps_per_call,
            self.batch_size,
            self.labelled_share,
            optimizer,
            objective,
            AugmentOptions(noise=noise, likelihood=bool(noise)),
        )

    def _or_default(self, name: str, default: float, low: float = 0.0) -> float:
        value = getattr(self, name)
        value = default if value is None else value
        check_range(name, value, low)
        return float(value)

    def _checked(self, x: Any) -> np.ndarray:
        check_is_fitted(self)
        return _standardised(self.scaler_, validate_data(self, x, dtype=np.float64, reset=False))

    def _log_posterior(self, x: np.ndarray) -> np.ndarray:
        log_posterior = log_posterior_of(self._log_joint(x))
        return np.where(np.isnan(log_posterior), np.log(self.class_probs_), log_posterior)

    def _log_joint(self, x: np.ndarray) -> np.ndarray:
        """``log p(x, y = k) [N, K]`` of standardised samples, in batches of one size."""
        log_joint = _flow(self._architecture).log_joint
        result = np.empty((len(x), len(self.classes_)))
        for part in slices(len(x), _ROWS):
            rows = log_joint(self.params_, padded(x[part], _ROWS))
            result[part] = np.asarray(rows)[: part.stop - part.start]
        return np.nan_to_num(result, nan=-np.inf, neginf=-np.inf)


def _standardised(scaler: StandardScaler, x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # so far out, and so the model says
        return scaler.transform(x).astype(np.float32)


def _plain(labels: np.ndarray) -> np.ndarray:
    """Numbers that stand in an array of objects as an array of numbers."""
    numbers_alone = all(isinstance(label, numbers.Number | np.bool_) for label in labels)
    return np.array(labels.tolist()) if labels.dtype == object and numbers_alone else labels


def _known(y: np.ndarray) -> np.ndarray:
    """Which labels are known ``[N]``.

    Raises:
      ValueError: where none is, for None, or where -1 has become a word or the largest number.
    """
    words = {label for label in y if isinstance(label, str)} if y.dtype.kind in "USOT" else set()
    if found := words & {"-1", "-1.0"}:
        word = min(found)
        raise ValueError(
            f"y: expected -1, the number, for a label that is not known, got the word {word!r}; "
            f"NumPy makes words of numbers among words: take y.astype(object), and set "
            f"y[y == {word!r}] = -1"
        )
    if y.dtype == object and any(label is None for label in y):
        raise ValueError(f"y: {_NO_GAPS}, got None")
    if y.dtype.kind == "u" and (y == np.iinfo(y.dtype).max).any():
        raise ValueError(
            f"y: expected signed integers where {np.iinfo(y.dtype).max} is a class, got {y.dtype}, "
            "in which -1, a label that is not known, becomes that number: take y.astype(int) "
            "before -1 goes in"
        )
    known = np.asarray(y != -1, bool)
    if not known.any():
        raise ValueError(f"y: expected at least one label, got {len(y)} times -1 (not known)")
    return known


# Parameters alone belong to an estimator, which can so be copied and pickled; what is compiled is
# shared by all those that have the same settings, as in a cross-validation.


class _Flow(NamedTuple):
    model: SemiConditionalFlow
    log_joint: Callable[..., Array]
    sample: Callable[..., Array]


@functools.lru_cache(maxsize=8)
def _flow(architecture: _Architecture) -> _Flow:
    model = vector(
        (architecture.num_features,),
        architecture.num_classes,
        steps=architecture.body_steps,
        head_steps=architecture.head_steps,
        hidden=architecture.hidden,
        coupling=architecture.coupling,
        class_probs=architecture.class_probs,
    )
    return _Flow(model, jax.jit(model.log_joint), jax.jit(model.sample))


@functools.lru_cache(maxsize=8)
def _trainer(
    architecture: _Architecture,
    steps: int,
    steps_per_call: int,
    batch_size: int,
    labelled_fraction: float,
    optimizer: OptimizerOptions,
    objective: ObjectiveOptions,
    augment: AugmentOptions,
) -> Trainer:
    return make_trainer(
        _flow(architecture).model,
        steps=steps,
        batch_size=batch_size,
        num_levels=None,
        mesh=parallel.data_mesh(),
        optimizer=optimizer,
        objective=objective,
        augment=augment,
        labelled_fraction=labelled_fraction,
        steps_per_call=steps_per_call,
    )

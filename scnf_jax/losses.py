"""What a training step descends, and what an evaluation computes, for every kind of model."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from scnf_jax import objectives
from scnf_jax.bijectors.base import Array, Params
from scnf_jax.data import dequantize, middle, random_view
from scnf_jax.metrics import bits_per_dim
from scnf_jax.models import Classifier, Model, StackedVAE
from scnf_jax.options import check_choice, check_positive, check_range
from scnf_jax.scnf import SemiConditionalFlow

LEVELS_AT = ("noise", "middle")
_MOVES = ("translate", "shift", "rotate", "scale", "shear", "elastic")


@dataclasses.dataclass(frozen=True)
class ObjectiveOptions:
    """Settings of the objective, in nats per object.

    Attributes:
      name: ``sgd``, the exact marginal, or ``em``.
      refresh_every: steps between E-steps of ``em``; 1 is the exact marginal's gradient, with the
        ``current`` teacher and ``e_step_temperature`` 1.
      refresh_from: before this step every step is an E-step, whatever ``refresh_every`` is.
      teacher: whose posterior of the first view the E-step and the consistency term take as
        their target: ``current``, the parameters that are trained, or ``averaged``, their
        moving average, which is right more often. With ``em`` the E-step is theirs, too.
      e_step_temperature: of ``em``; see
        :func:`~scnf_jax.objectives.expected_log_likelihood`. 1 is EM itself.
      classification_weight: of the cross-entropy on labelled rows.
      consistency_weight: of the consistency between two views of a row.
      self_training_weight: of the cross-entropy of the first view to the same target, from
        ``refresh_from`` on. Where the E-step's parameters are kept for many steps, their
        posterior of an object is a label for that time, and this holds the model to it. A
        classifier, which has no likelihood, learns of unlabelled objects as they are from
        this term alone.
      view_weight: of the likelihood of the second view. A density that has seen images as
        they are alone is erratic on views, and the sharper it is the more.
      view_every: every how many rows of a batch one has a second view; above 1 they cost less. A
        divisor of the rows of a batch that each device has.
      consistency_rampup: steps over which the consistency weight rises from 0.
      anneal_to: share of themselves to which the weights of classification, consistency and
        self-training fall, geometrically, up to the last step: classes first, density later.
      anneal_from: the step at which they begin to fall; in a run that ends before, they stay.
      confidence: unlabelled rows count in the consistency where the target's largest
        probability is at least this.
      sharpening: power of the consistency target's probabilities; above 1 the target is
        surer than what the first view says.
      align_classes: whether the consistency targets are divided by how often they have named
        each class lately; for classes that are about equally frequent. It acts in every step
        until they are named equally often: in long runs it moves objects of the frequent
        classes to the rare ones.
      temperature: divides ``log p(x, y)`` in all terms but the likelihood. A
        flow's posterior is nearly 0 or 1 long before it is right; at a temperature of
        some fraction of the number of dimensions these terms stay sensitive for longer.
      prior_precision: ``tau`` of the normal prior ``N(0, 1 / tau)`` on every parameter, whose
        ``tau / 2 ||params||^2`` nats are divided by the number of train objects, as their
        likelihood is; 0: no prior. It is what keeps a density of few objects from being
        overfitted to them. Metrics leave it out.
    """

    name: str = "sgd"
    refresh_every: int = 1
    refresh_from: int = 0
    teacher: str = "current"
    e_step_temperature: float = 1.0
    classification_weight: float = 0.0
    consistency_weight: float = 0.0
    self_training_weight: float = 0.0
    view_weight: float = 0.0
    view_every: int = 1
    consistency_rampup: int = 0
    anneal_to: float = 1.0
    anneal_from: int = 0
    confidence: float = 0.0
    sharpening: float = 1.0
    align_classes: bool = False
    temperature: float = 1.0
    prior_precision: float = 0.0

    def __post_init__(self) -> None:
        check_choice("objective.name", self.name, ("sgd", "em"))
        check_choice("objective.teacher", self.teacher, ("current", "averaged"))
        check_positive("objective.refresh_every", self.refresh_every)
        check_positive("objective.view_every", self.view_every)
        for field in (
            "classification_weight",
            "consistency_weight",
            "self_training_weight",
            "view_weight",
            "consistency_rampup",
            "refresh_from",
            "anneal_from",
            "prior_precision",
        ):
            check_range(f"objective.{field}", getattr(self, field), 0.0)
        check_range("objective.confidence", self.confidence, 0.0, 1.0)
        check_range("objective.anneal_to", self.anneal_to, 1e-6, 1.0)
        check_range("objective.sharpening", self.sharpening, 0.0)
        check_range("objective.temperature", self.temperature, 1e-6)
        check_range("objective.e_step_temperature", self.e_step_temperature, 1e-6)
        if self.self_training_weight and self.teacher != "averaged":
            raise ValueError(
                "objective.self_training_weight: expected 0 with objective.teacher='current', "
                "whose targets are the model's own; set objective.teacher='averaged'"
            )
        for field in ("refresh_every", "e_step_temperature"):
            if self.name == "sgd" and getattr(self, field) != 1:
                raise ValueError(
                    f"objective.{field}: expected 1 with objective.name='sgd', which has no "
                    f"E-step, got {getattr(self, field)}; set objective.name='em'"
                )

    @property
    def sees_second_views(self) -> bool:
        """Whether a term sees a second view of the objects."""
        return bool(self.consistency_weight or self.view_weight)


@dataclasses.dataclass(frozen=True)
class AugmentOptions:
    """How far random views are from the objects; all 0: no views.

    Attributes:
      translate: of images, bound in whole pixels; see
        :func:`~scnf_jax.data.random_view`.
      shift: of images, bound in pixels, with interpolation.
      rotate: of images, bound in degrees.
      scale: of images, bound of the logarithm of the factor.
      shear: of images, bound of the slope.
      elastic: of images, bound in pixels of smooth displacements.
      noise: of vectors, standard deviation of normal noise, in units of the data.
      likelihood: whether the likelihood, too, sees such views instead of the images.
      at: where in its grey levels a second view is taken: ``noise``, a draw as that of the first
        view, or ``middle``, without noise; for a run that classifies there, and whose likelihood
        sees no second views. See :func:`make_scores`.
    """

    translate: int = 0
    shift: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    elastic: float = 0.0
    noise: float = 0.0
    likelihood: bool = False
    at: str = "noise"

    def __post_init__(self) -> None:
        check_choice("augment.at", self.at, LEVELS_AT)
        for field in (*_MOVES, "noise"):
            check_range(f"augment.{field}", getattr(self, field), 0.0)

    @property
    def of_images(self) -> bool:
        """Whether views of images differ from the images."""
        return any(getattr(self, field) for field in _MOVES)


class Teacher(NamedTuple):
    """What gives the targets of rows without a label.

    Attributes:
      params: those of the last E-step, or the averaged ones; ``()``: those that are trained.
      class_share: how often targets have named each class lately ``[K]``.
    """

    params: Params
    class_share: Array


class LossOutput(NamedTuple):
    """What comes with a loss; means over rows, like it.

    Attributes:
      metrics: scalars by name.
      named_share: how often this batch's targets name each class ``[K]``; 0 where it has none.
    """

    metrics: dict[str, Array]
    named_share: Array


class Loss(NamedTuple):
    """A loss in two parts, so that devices can share the rows between them.

    Attributes:
      draw: ``(key, x) -> rows``: what is random of a step, for objects as stored; arrays by name,
        whose first axis is the batch, or every so many of its rows.
      mean: ``(params, teacher, rows, label, labels_of_all, step) -> (loss, output)``, in nats per
        object: a mean over ``rows`` and their ``label``, which may be some of those that were
        drawn. ``labels_of_all`` are the labels of all, by which labelled rows are counted.
    """

    draw: Callable[[Array, Array], dict[str, Array]]
    mean: Callable[
        [Params, Teacher, dict[str, Array], Array, Array, Array], tuple[Array, LossOutput]
    ]


def make_loss(
    model: Model,
    objective: ObjectiveOptions,
    augment: AugmentOptions,
    num_levels: int | None,
    steps: int,
) -> Loss:
    """The loss of a model under the given settings.

    Args:
      model: a flow, a classifier, or the stacked autoencoders, which bring their own loss.
      objective: settings; of these the autoencoders take ``classification_weight``.
      augment: settings.
      num_levels: grey levels of the images, None for vectors.
      steps: of the whole run.

    Returns:
      The loss.

    Raises:
      ValueError: for settings that contradict the model or the data.
    """
    if augment.of_images and num_levels is None:
        raise ValueError("augment: vectors are not moved or turned; for them set noise")
    if augment.noise and num_levels is not None:
        raise ValueError(f"augment: noise is of vectors; for images set {', '.join(_MOVES)}")
    if isinstance(model, StackedVAE):
        return _vae_loss(model, objective, augment, num_levels)
    second = objective.sees_second_views
    if (augment.of_images or augment.noise) and not (second or augment.likelihood):
        raise ValueError(
            "augment: no term sees these views; set augment.likelihood=True, a weight "
            "objective.consistency_weight or objective.view_weight, or all of augment to 0"
        )
    if objective.view_every > 1 and not second:
        raise ValueError(
            f"objective.view_every: expected 1, since no term sees second views, got "
            f"{objective.view_every}; set objective.consistency_weight or objective.view_weight"
        )
    if augment.at == "middle" and (num_levels is None or objective.view_weight or not second):
        raise ValueError(
            "augment.at: expected 'noise', got 'middle', which is for second views of grey levels "
            "without a likelihood: set objective.consistency_weight, and objective.view_weight=0"
        )
    if isinstance(model, Classifier):
        if num_levels is None:
            raise ValueError("model classifier: expected images of grey levels, got vectors")
        if objective.name != "sgd" or objective.view_weight:
            raise ValueError(
                "model classifier: has no density; expected objective.name='sgd' and "
                f"objective.view_weight=0, got {objective.name!r} and {objective.view_weight}"
            )
    return _joint_loss(model, objective, augment, num_levels, steps)


def _vae_loss(
    model: StackedVAE,
    objective: ObjectiveOptions,
    augment: AugmentOptions,
    num_levels: int | None,
) -> Loss:
    weight = objective.classification_weight
    if num_levels is None:
        raise ValueError("model m1m2: expected images of grey levels, got vectors")
    if objective != ObjectiveOptions(classification_weight=weight) or augment != AugmentOptions():
        raise ValueError(
            "model m1m2: has an objective of its own; of objective and augment set only "
            "objective.classification_weight"
        )

    def draw(key: Array, x: Array) -> dict[str, Array]:
        return model.draw(key, _levels(x, num_levels))

    def mean(
        params: Params,
        teacher: Teacher,
        rows: dict[str, Array],
        label: Array,
        labels_of_all: Array,
        step: Array,
    ) -> tuple[Array, LossOutput]:
        labelled = objectives.mean_weight(label >= 0, labels_of_all >= 0)
        total, measured = model.loss(params, rows, label, labelled, step, weight)
        return total, LossOutput(measured, teacher.class_share)

    return Loss(draw, mean)


def _levels(x: Array, num_levels: int) -> Array:
    """Grey levels on [0, 1], as probabilities of a white pixel."""
    return x.astype(jnp.float32) / (num_levels - 1)


def _joint_loss(
    model: SemiConditionalFlow | Classifier,
    objective: ObjectiveOptions,
    augment: AugmentOptions,
    num_levels: int | None,
    steps: int,
) -> Loss:
    anneal_steps = max(steps - objective.anneal_from, 1)
    viewed = slice(None, None, objective.view_every)
    # A classifier's p(x) is 1: then log p(x, y) is log p(y|x), and log p(x) is 0.
    log_joint_of = model.log_posterior if isinstance(model, Classifier) else model.log_joint

    def changed(key: Array, x: Array) -> Array:
        if augment.noise:
            return x + augment.noise * jax.random.normal(key, x.shape, x.dtype)
        if augment.of_images:
            bounds = {field: getattr(augment, field) for field in _MOVES}
            return random_view(key, x, **bounds)
        return x

    def first_view(key: Array, x: Array) -> Array:
        view_key, noise_key = jax.random.split(key)
        x = changed(view_key, x) if augment.likelihood else x
        return dequantize(noise_key, x, num_levels)

    def second_view(key: Array, x: Array) -> Array:
        view_key, noise_key = jax.random.split(key)
        x = changed(view_key, x)
        if augment.at == "middle" and num_levels is not None:
            return middle(x, num_levels)
        return dequantize(noise_key, x, num_levels)

    def draw(key: Array, x: Array) -> dict[str, Array]:
        first_key, second_key = jax.random.split(key)
        views = {"first": first_view(first_key, x)}
        if objective.sees_second_views:
            views["second"] = second_view(second_key, x[viewed])
        return views

    def mean(
        params: Params,
        teacher: Teacher,
        views: dict[str, Array],
        label: Array,
        labels_of_all: Array,
        step: Array,
    ) -> tuple[Array, LossOutput]:
        first = views["first"]
        log_joint = log_joint_of(params, first)
        taught = bool(jax.tree.leaves(teacher.params))
        target = log_joint_of(teacher.params, first) if taught else log_joint
        pseudo_label = target if objective.teacher == "averaged" else log_joint

        def log_likelihood(log_joint: Array, rows: slice = slice(None)) -> Array:
            if objective.name == "sgd":
                return jnp.mean(objectives.marginal_log_likelihood(log_joint, label[rows]))
            expected = objectives.expected_log_likelihood(
                log_joint, label[rows], target[rows], objective.e_step_temperature
            )
            return jnp.mean(expected)

        def agreement(log_joint: Array, rows: slice = slice(None)) -> Array:
            """Cross-entropy of a view's posterior to the target, mean over the view's rows."""
            terms = objectives.consistency(
                log_joint,
                pseudo_label[rows],
                label[rows],
                objective.temperature,
                objective.confidence,
                objective.sharpening,
                teacher.class_share if objective.align_classes else None,
            )
            return jnp.mean(terms)

        loss = -log_likelihood(log_joint)
        labelled = objectives.mean_weight(label >= 0, labels_of_all >= 0)
        misses = objectives.cross_entropy(log_joint, label, objective.temperature)
        cross_entropy = jnp.mean(labelled * misses)
        metrics = {"cross_entropy": cross_entropy}
        fallen = jnp.clip((step - objective.anneal_from) / anneal_steps, 0.0, 1.0)
        share = objective.anneal_to**fallen
        if objective.classification_weight:
            loss += share * objective.classification_weight * cross_entropy
        if objective.self_training_weight:
            kept = jnp.where(step >= objective.refresh_from, 1.0, 0.0)
            loss += share * kept * objective.self_training_weight * agreement(log_joint)
        if "second" in views:
            second = log_joint_of(params, views["second"])
            loss -= objective.view_weight * log_likelihood(second, viewed)
            ramp = jnp.minimum(1.0, (step + 1) / max(objective.consistency_rampup, 1))
            metrics["consistency"] = agreement(second, viewed)
            loss += share * ramp * objective.consistency_weight * metrics["consistency"]
        metrics["loss"] = loss
        if isinstance(model, SemiConditionalFlow):
            log_prob = jnp.mean(objectives.marginal_log_likelihood(log_joint, jnp.array(-1)))
            size = math.prod(first.shape[1:])
            metrics["bits_per_dim"] = bits_per_dim(log_prob, size, num_levels)
        unlabelled = objectives.mean_weight(label < 0, labels_of_all < 0)
        named = objectives.named_share(pseudo_label, unlabelled, objective.temperature)
        return loss, LossOutput(metrics, named)

    return Loss(draw, mean)


def make_input(model: Model, num_levels: int | None) -> Callable[[Array, Array], Array]:
    """``(key, stored rows) -> x``, as the model takes it, with noise drawn for all rows at once."""

    def prepare(key: Array, x: Array) -> Array:
        if isinstance(model, StackedVAE) and num_levels is not None:
            return _levels(x, num_levels)
        return dequantize(key, x, num_levels)

    return prepare


class EvaluationKeys(NamedTuple):
    """What is random when a trained model is used, each from a key of its own.

    Attributes:
      noise: of the dequantisation.
      label: of labels drawn from a posterior.
      sample: of samples.
    """

    noise: Array
    label: Array
    sample: Array


def evaluation_keys(seed: int = 0) -> EvaluationKeys:
    """The keys of a seed; training evaluates with those of 0."""
    return EvaluationKeys(*jax.random.split(jax.random.key(seed), 3))


def make_numbered_input(
    model: Model, num_levels: int | None
) -> Callable[[Array, Array, Array], Array]:
    """``(key, numbers, stored rows) -> x``, as the model takes it outside of training.

    The noise of an object is a function of the key and of the object's number, so that what is
    said of it depends neither on the size of the batches nor on the number of devices.
    """
    prepare = make_input(model, num_levels)

    def one(key: Array, number: Array, x: Array) -> Array:
        return prepare(jax.random.fold_in(key, number), x[None])[0]

    return jax.vmap(one, in_axes=(None, 0, 0))


def make_classified_input(
    model: Model, num_levels: int | None, posterior_at: str
) -> Callable[[Array, Array, Array], Array]:
    """As :func:`make_numbered_input`, for ``p(y|x)``.

    Args:
      model: see :func:`make_loss`.
      num_levels: see :func:`make_loss`.
      posterior_at: ``noise``: the same objects. ``middle``: ``(v + 1/2) / num_levels`` for grey
        levels ``v``, whatever the key is.

    Raises:
      ValueError: for another word, and for ``middle`` where nothing has noise.
    """
    check_choice("posterior_at", posterior_at, LEVELS_AT)
    if posterior_at == "noise":
        return make_numbered_input(model, num_levels)
    if num_levels is None or isinstance(model, StackedVAE):
        raise ValueError(
            "posterior_at: expected 'noise', got 'middle', which is for grey levels with "
            "dequantisation noise; vectors and m1m2 have none"
        )

    def prepare(key: Array, numbers: Array, x: Array) -> Array:
        del key, numbers
        return middle(x, num_levels)

    return prepare


def make_scores(
    model: Model, num_levels: int | None, posterior_at: str = "noise"
) -> Callable[[Params, Array, Array], tuple[Array | None, Array]]:
    """What an evaluation computes of every row.

    The density is that of one draw of the dequantisation noise. A sharp density puts much of what
    it knows into this noise, of the background above all, and other draws of it may tip the
    posterior over; the middle of the grey levels is free of that, and costs a second pass.

    Args:
      model: see :func:`make_loss`.
      num_levels: see :func:`make_loss`.
      posterior_at: see :func:`make_classified_input`.

    Returns:
      ``(params, numbers, stored rows) -> (log p(x) [batch], log p(y|x) [batch, K])``; None
      in place of the density for a model that has none. ``numbers`` are those of the objects, by
      which their noise is drawn.
    """
    prepare = make_numbered_input(model, num_levels)
    classified = make_classified_input(model, num_levels, posterior_at)

    def scores(params: Params, numbers: Array, stored: Array) -> tuple[Array | None, Array]:
        noise, marginal = evaluation_keys().noise, None
        if isinstance(model, SemiConditionalFlow):
            log_joint = model.log_joint(params, prepare(noise, numbers, stored))
            marginal = jax.nn.logsumexp(log_joint, -1)
            if posterior_at == "noise":
                return marginal, jax.nn.log_softmax(log_joint, -1)
        return marginal, model.log_posterior(params, classified(noise, numbers, stored))

    return scores

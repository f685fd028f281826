"""Training: the state, one pure step, many steps in one call, evaluation."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jax.sharding import Mesh

from scnf_jax import parallel
from scnf_jax.bijectors.base import Array, Params
from scnf_jax.data import Rows, TrainObjects
from scnf_jax.data.batches import joined, padded, slices
from scnf_jax.losses import (
    AugmentOptions,
    LossOutput,
    Model,
    ObjectiveOptions,
    Teacher,
    make_input,
    make_loss,
    make_scores,
)
from scnf_jax.models import StackedVAE
from scnf_jax.options import check_choice, check_range

_MAX_SKIPPED_IN_A_ROW = 20
_SHARE_DECAY = 0.99


class Diverged(RuntimeError):
    """Too many steps in a row had a loss or gradient that was not finite; see ``has_diverged``."""

    def __init__(self, in_a_row: int, step: int, advice: str) -> None:
        super().__init__(
            f"the loss or its gradient was not finite in {in_a_row} steps in a row, up to step "
            f"{step}; {advice}"
        )


def has_diverged(in_a_row: int, steps: int) -> bool:
    """Whether 20 steps in a row were skipped, or all but the first of a shorter run.

    The first step's gradient is finite, whatever the rate is that takes the parameters away then.

    Args:
      in_a_row: skipped steps.
      steps: of the whole run.
    """
    return in_a_row >= max(min(_MAX_SKIPPED_IN_A_ROW, steps - 1), 1)


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """Settings of the optimiser.

    Attributes:
      name: ``adam``, ``adamax``, or ``muon``: the networks' matrices by momentum that is
        orthogonalised, all other parameters by Adam (Nesterov's), at the same rate. Matrices are
        leaves with the name ``kernel``, as Flax has it, of dense layers and 3x3 convolutions.
      learning_rate: at the peak.
      schedule: ``constant``, or ``linear`` or ``cosine`` down to 0 at the last step.
      decay_share: of the steps, the last ones, in which the rate falls; before, it is constant.
      warmup_steps: of linear warm-up from 0.
      weight_decay: coupled L2: added to the gradient times the parameters.
      clip_norm: of the gradient's global norm; 0: off.
      ema_decay: of the averaged parameters, which are then the ones to use; 0: off.
    """

    name: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "linear"
    decay_share: float = 1.0
    warmup_steps: int = 0
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        check_choice("optimizer.name", self.name, ("adam", "adamax", "muon"))
        check_choice("optimizer.schedule", self.schedule, ("constant", "linear", "cosine"))
        for field in ("learning_rate", "warmup_steps", "weight_decay", "clip_norm"):
            check_range(f"optimizer.{field}", getattr(self, field), 0.0)
        check_range("optimizer.decay_share", self.decay_share, 0.0, 1.0)
        check_range("optimizer.ema_decay", self.ema_decay, 0.0, 1.0)


class TrainData(NamedTuple):
    """The train set on the device.

    What differs between runs alone, in their seeds and in which labels they see, is data and no
    shape or constant of the compiled program: such runs share one compilation.

    Attributes:
      x: grey levels uint8 ``[N, H, W, C]``, or vectors float32 ``[N, D]``; without rows
        where the objects stay on disk, and come with every call.
      y: int32 ``[N]``, -1 for "not known".
      order: row numbers ``[N]``: those of the labelled objects, then those of the others.
      num_labelled: of the objects; scalar.
      num_objects: scalar; rows from here on are padding, and never drawn.
      seed: of every random number of training; scalar.
    """

    x: Array
    y: Array
    order: Array
    num_labelled: Array
    num_objects: Array
    seed: Array


class TrainState(NamedTuple):
    """Everything that a resumed run needs; random numbers are functions of (seed, step).

    Attributes:
      step: steps done.
      params: of the model.
      opt_state: of optax.
      ema_params: averaged parameters; ``()`` where averaging is off.
      em_params: parameters of the last E-step; ``()`` where every step refreshes them.
      class_share: running mean of how often targets name each class ``[K]``.
      skipped: steps left out because their loss or gradient was not finite.
      skipped_in_a_row: of these, the ones since the last good step.
    """

    step: Array
    params: Params
    opt_state: Any
    ema_params: Params
    em_params: Params
    class_share: Array
    skipped: Array
    skipped_in_a_row: Array


class Trainer(NamedTuple):
    """Compiled functions of one run; see :func:`make_trainer`.

    Attributes:
      init: ``(data, x=None) -> state``.
      step: ``(state, data, x=None) -> (state, metrics)``, pure.
      run_chunk: ``(state, data) -> (state, metrics)``, ``steps_per_call`` steps in one
        jitted call that donates the state; each metric is ``[steps_per_call]``.
      run_chunk_on: ``(state, data, x) -> (state, metrics)``, the same on objects
        ``[steps_per_call, batch, *event]`` that are given.
      rows: ``(data, step) -> [steps_per_call, batch]``, the row numbers that the steps from
        ``step`` on draw. Given these rows ``run_chunk_on`` does what ``run_chunk`` does.
      init_rows: ``data -> [rows]``, the row numbers that ``init`` draws.
      evaluate: ``(params, x) -> (log p(x) [N], log p(y|x) [N, K])`` as host arrays;
        None in place of log p(x) for a model without a density.
    """

    init: Callable[..., TrainState]
    step: Callable[..., tuple[TrainState, dict[str, Array]]]
    run_chunk: Callable[[TrainState, TrainData], tuple[TrainState, dict[str, Array]]]
    run_chunk_on: Callable[[TrainState, TrainData, Array], tuple[TrainState, dict[str, Array]]]
    rows: Callable[[TrainData, Array | int], Array]
    init_rows: Callable[[TrainData], Array]
    evaluate: Callable[[Params, np.ndarray], tuple[np.ndarray | None, np.ndarray]]


def make_optimizer(options: OptimizerOptions, steps: int) -> optax.GradientTransformation:
    """The optax chain: clipping where asked for, coupled L2, Adam, Adamax or Muon, schedule.

    Muon's updates are as long as Adam's usually are, a root mean square of 0.2 before the rate.

    Args:
      options: settings.
      steps: of the whole run, for the schedule.

    Returns:
      The transformation.

    References:
      Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks",
      https://kellerjordan.github.io/posts/muon; Liu et al. 2025, "Muon is Scalable for LLM
      Training", section 2.2 (the length), https://arxiv.org/abs/2502.16982
    """
    rate = _schedule(options, steps)
    parts = []
    if options.clip_norm:
        parts.append(optax.clip_by_global_norm(options.clip_norm))
    if options.weight_decay:
        parts.append(optax.add_decayed_weights(options.weight_decay))
    if options.name == "muon":
        muon = optax.contrib.muon(
            rate,
            ns_steps=3,
            preconditioning="aol",  # with it three iterations do as five without, and cost less
            consistent_rms=0.2,
            muon_weight_dimension_numbers=_matrices,
        )
        return optax.chain(*parts, muon)
    scale = {"adam": optax.scale_by_adam, "adamax": optax.scale_by_adamax}[options.name]
    return optax.chain(*parts, scale(), optax.scale_by_learning_rate(rate))


def _matrices(params: Params) -> Any:
    """Which parameters are matrices of a network, and their axes; None for the others.

    These are the kernels, of convolutions those that map all that a position sees, but for a
    kernel that gives every label a row of its own. Axes in front are those of repeated layers.
    """

    def axes(path: tuple[Any, ...], leaf: Array) -> optax.contrib.MuonDimensionNumbers | None:
        names = jax.tree_util.keystr(path, simple=True, separator=".").split(".")
        if names[-1] != "kernel" or "context" in names or leaf.ndim < 2:
            return None
        convolves = leaf.ndim >= 4 and leaf.shape[-4:-2] == (3, 3)
        inputs = (-4, -3, -2) if convolves else (-2,)
        return optax.contrib.MuonDimensionNumbers(inputs, -1)

    return jax.tree_util.tree_map_with_path(axes, params)


def _schedule(options: OptimizerOptions, steps: int) -> optax.Schedule:
    peak, warm = options.learning_rate, options.warmup_steps
    start = max(warm, steps - round(options.decay_share * steps))
    decay_steps = max(steps - start, 1)
    constant = optax.constant_schedule(peak)
    decay = {
        "constant": constant,
        "linear": optax.linear_schedule(peak, 0.0, decay_steps),
        "cosine": optax.cosine_decay_schedule(peak, decay_steps),
    }[options.schedule]
    rise = optax.linear_schedule(0.0, peak, warm) if warm else constant
    return optax.join_schedules([rise, constant, decay], [warm, start])


def make_data(
    x: TrainObjects, y: np.ndarray, mesh: Mesh, seed: int = 0, capacity: int | None = None
) -> TrainData:
    """Puts the train set on every device; of objects on disk the labels alone.

    Args:
      x: see :class:`TrainData`.
      y: see :class:`TrainData`.
      mesh: of devices.
      seed: see :class:`TrainData`.
      capacity: rows to which the arrays are padded, so that sets of several sizes share one
        compilation; None: no padding.

    Returns:
      The data, replicated.
    """
    num = len(y)
    capacity = num if capacity is None else capacity
    known = y >= 0
    order = np.concatenate([np.flatnonzero(known), np.flatnonzero(~known)])
    x = np.zeros((0, *x.event_shape), x.dtype) if isinstance(x, Rows) else padded(x, capacity)
    integers = (padded(y, capacity), padded(order, capacity), known.sum(), num)
    arrays = (x, *(np.asarray(array, np.int32) for array in integers), np.uint32(seed))
    return TrainData(*parallel.replicate(arrays, mesh))


def _keys(data: TrainData) -> tuple[Array, Array]:
    """The keys of training and of the start; one more is kept for what may come."""
    train_key, init_key, _ = jax.random.split(jax.random.key(data.seed), 3)
    return train_key, init_key


def draw_rows(
    key: Array, data: TrainData, batch_size: int, labelled_fraction: float | None
) -> Array:
    """Draws row numbers with replacement.

    Args:
      key: of the draw.
      data: the train set.
      batch_size: rows.
      labelled_fraction: probability that a row is a labelled object, at least: where their share
        of the data is larger, it is that. None: each object is as likely as any other.

    Returns:
      int32 ``[batch_size]``.
    """
    if labelled_fraction is None:
        return jax.random.randint(key, (batch_size,), 0, data.num_objects)
    coin_key, labelled_key, unlabelled_key = jax.random.split(key, 3)
    fraction = jnp.maximum(labelled_fraction, data.num_labelled / data.num_objects)
    coin = jax.random.bernoulli(coin_key, fraction, (batch_size,))
    all_labelled = data.num_labelled == data.num_objects
    first_unlabelled = jnp.where(all_labelled, 0, data.num_labelled)

    def pick(pick_key: Array, first: Array | int, end: Array) -> Array:
        return data.order[first + jax.random.randint(pick_key, (batch_size,), 0, end - first)]

    return jnp.where(
        coin,
        pick(labelled_key, 0, data.num_labelled),
        pick(unlabelled_key, first_unlabelled, data.num_objects),
    )


def make_trainer(
    model: Model,
    *,
    steps: int,
    batch_size: int,
    num_levels: int | None,
    mesh: Mesh,
    optimizer: OptimizerOptions = OptimizerOptions(),
    objective: ObjectiveOptions = ObjectiveOptions(),
    augment: AugmentOptions = AugmentOptions(),
    labelled_fraction: float | None = None,
    steps_per_call: int = 1,
    eval_batch_size: int = 500,
    init_batch_size: int = 512,
    posterior_at: str = "noise",
) -> Trainer:
    """Builds the functions that train and evaluate a model.

    Args:
      model: the density.
      steps: of the whole run, for the schedule.
      batch_size: rows of a step, over all devices.
      num_levels: grey levels of the images, None for vectors.
      mesh: of devices; see :mod:`~scnf_jax.parallel`.
      optimizer: settings.
      objective: settings.
      augment: settings.
      labelled_fraction: see :func:`draw_rows`.
      steps_per_call: of ``run_chunk``.
      eval_batch_size: rows that ``evaluate`` puts through the model at a time.
      init_batch_size: rows that data-dependent layers are initialised on.
      posterior_at: where ``evaluate`` classifies; see :func:`~scnf_jax.losses.make_scores`.

    Returns:
      The functions.

    Raises:
      ValueError: for settings that contradict each other or the mesh.
    """
    parallel.check_batch(batch_size, mesh)
    rows_of_one = batch_size // mesh.size
    if rows_of_one % objective.view_every:
        raise ValueError(
            f"objective.view_every: expected a divisor of the {rows_of_one} rows of a batch that "
            f"each device has, got {objective.view_every}"
        )
    if labelled_fraction is not None:
        check_range("labelled_fraction", labelled_fraction, 0.0, 1.0)
    if optimizer.name == "muon" and isinstance(model, StackedVAE):
        raise ValueError(
            "optimizer.name: expected 'adam' or 'adamax' for m1m2, got 'muon', which would go on "
            "moving the first autoencoder after model.m1_steps, when it has no gradient"
        )
    transform = make_optimizer(optimizer, steps)
    rows_sharding, whole = parallel.by_row(mesh), parallel.replicated(mesh)
    loss = make_loss(model, objective, augment, num_levels, steps)
    prepare = make_input(model, num_levels)
    scores_of = make_scores(model, num_levels, posterior_at)
    needs_em_params = objective.name == "em" and objective.refresh_every > 1
    if objective.teacher == "averaged" and not optimizer.ema_decay:
        raise ValueError(
            "objective.teacher: 'averaged' needs averaged parameters; set optimizer.ema_decay, "
            "such as 0.998"
        )

    def step_keys(data: TrainData, step: Array) -> tuple[Array, Array]:
        train_key, _ = _keys(data)
        rows_key, loss_key = jax.random.split(jax.random.fold_in(train_key, step))
        return rows_key, loss_key

    def rows_of_step(data: TrainData, step: Array) -> Array:
        return draw_rows(step_keys(data, step)[0], data, batch_size, labelled_fraction)

    @functools.partial(jax.jit, out_shardings=whole)
    def rows_of_call(data: TrainData, step: Array | int) -> Array:
        return jax.vmap(lambda ahead: rows_of_step(data, step + ahead))(jnp.arange(steps_per_call))

    @functools.partial(jax.jit, out_shardings=whole)
    def init_rows(data: TrainData) -> Array:
        _, init_key = _keys(data)
        size = -(-init_batch_size // mesh.size) * mesh.size
        return draw_rows(jax.random.split(init_key, 3)[0], data, size, None)

    def init(data: TrainData, x: Array | None = None) -> TrainState:
        _, init_key = _keys(data)
        _, view_key, params_key = jax.random.split(init_key, 3)
        x = data.x[init_rows(data)] if x is None else x
        x = jax.lax.with_sharding_constraint(x, rows_sharding)
        params = model.init(params_key, prepare(view_key, x))
        zero = jnp.zeros((), jnp.int32)
        # Distinct buffers, since the state is donated.
        copy = jax.tree.map(jnp.copy, params)
        return TrainState(
            step=zero,
            params=params,
            opt_state=transform.init(params),
            ema_params=copy if optimizer.ema_decay else (),
            em_params=copy if needs_em_params else (),
            class_share=jnp.full(model.num_classes, 1.0 / model.num_classes, jnp.float32),
            skipped=zero,
            skipped_in_a_row=zero,
        )

    @parallel.mean_over_devices(mesh, by_row=(False, False, True, True, False, False))
    def gradient(*arguments: Any) -> tuple[Params, LossOutput]:
        return jax.grad(loss.mean, has_aux=True)(*arguments)

    def step_fn(
        state: TrainState, data: TrainData, x: Array | None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        _, loss_key = step_keys(data, state.step)
        # Every device draws all row numbers, so that it knows the labels of the whole batch.
        rows = jax.lax.with_sharding_constraint(rows_of_step(data, state.step), whole)
        label = jax.lax.with_sharding_constraint(data.y[rows], whole)
        x = data.x[rows] if x is None else x
        x = jax.lax.with_sharding_constraint(x, rows_sharding)
        taught_by = state.ema_params if objective.teacher == "averaged" else ()
        em_params = state.em_params
        if needs_em_params:
            every_step = state.step < objective.refresh_from
            refresh = every_step | (state.step % objective.refresh_every == 0)
            em_params = _select(refresh, taught_by or state.params, em_params)
            taught_by = em_params
        teacher = Teacher(taught_by, state.class_share)
        grads, (metrics, named_share) = gradient(
            state.params, teacher, loss.draw(loss_key, x), label, label, state.step
        )
        # Where every row has a label the targets name no class, that is all of them alike.
        named_share += jnp.maximum(1 - jnp.sum(named_share), 0.0) / model.num_classes
        norm = optax.tree.norm(grads)
        good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
        if objective.prior_precision:
            precision = objective.prior_precision / data.num_objects
            grads = jax.tree.map(
                lambda g, p: g + precision.astype(p.dtype) * p, grads, state.params
            )
        updates, opt_state = transform.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(optimizer.ema_decay, (1 + state.step) / (10 + state.step))
        ema_params = jax.tree.map(
            lambda average, new: decay * average + (1 - decay) * new,
            state.ema_params,
            params if optimizer.ema_decay else (),
        )
        moved = state._replace(
            params=params,
            opt_state=opt_state,
            ema_params=ema_params,
            class_share=_SHARE_DECAY * state.class_share + (1 - _SHARE_DECAY) * named_share,
        )
        new_state = _select(good, moved, state)._replace(
            step=state.step + 1,
            em_params=em_params,  # a teacher that is due does not wait for another period
            skipped=state.skipped + jnp.where(good, 0, 1),
            skipped_in_a_row=jnp.where(good, 0, state.skipped_in_a_row + 1),
        )
        return new_state, {**metrics, "grad_norm": norm}

    def chunk(state: TrainState, data: TrainData) -> tuple[TrainState, dict[str, Array]]:
        return jax.lax.scan(lambda s, _: step_fn(s, data), state, None, steps_per_call)

    def chunk_on(
        state: TrainState, data: TrainData, x: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        return jax.lax.scan(lambda s, rows: step_fn(s, data, rows), state, x)

    @functools.partial(jax.jit, out_shardings=whole)
    def score(params: Params, first: Array | int, x: Array) -> tuple[Array | None, Array]:
        return scores_of(params, first + jnp.arange(x.shape[0]), x)

    def evaluate(params: Params, x: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
        size = -(-min(eval_batch_size, len(x)) // mesh.size) * mesh.size
        parts = []
        for part in slices(len(x), size):
            rows = parallel.split_rows(padded(x[part], size), mesh)
            parts.append(jax.device_get(score(params, part.start, rows)))
        log_prob, log_posterior = jax.tree.map(lambda leaf: leaf[: len(x)], joined(parts))
        return log_prob, log_posterior

    jitted = functools.partial(jax.jit, donate_argnums=0, out_shardings=(whole, whole))
    return Trainer(
        init=jax.jit(init, out_shardings=whole),
        step=step_fn,
        run_chunk=jitted(chunk, in_shardings=(whole, whole)),
        run_chunk_on=jitted(chunk_on),
        rows=rows_of_call,
        init_rows=init_rows,
        evaluate=evaluate,
    )


def usable_params(state: TrainState) -> Params:
    """The parameters to use: the averaged ones where averaging is on."""
    return state.ema_params if jax.tree.leaves(state.ema_params) else state.params


def _select(condition: Array, chosen: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), chosen, other)

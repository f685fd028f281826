"""Runs: from plain settings to a trained model in a folder."""

import contextlib
import dataclasses
import importlib.metadata
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.sharding import Mesh

from scnf_jax import checkpoints, metrics, parallel
from scnf_jax.bijectors.base import Params
from scnf_jax.data import Dataset, ReadAhead, Rows, TrainObjects, at_most, load_dataset, take
from scnf_jax.data.validation import warn_unless_standardised
from scnf_jax.folders import Settings, check_same_run, claimed, write_json, write_settings
from scnf_jax.inference import Engine
from scnf_jax.labels import given_answers, keep_answers, seen_labels
from scnf_jax.loading import LoadedRun
from scnf_jax.losses import Model
from scnf_jax.models import build_model, with_defaults
from scnf_jax.pseudo_labels import add_pseudo_labels, is_finished, save_labels, source_of
from scnf_jax.reporting import figures, gallery
from scnf_jax.reporting.log import MetricsLog, read_metrics
from scnf_jax.reporting.pictures import drawable
from scnf_jax.reporting.progress import Progress
from scnf_jax.scnf import SemiConditionalFlow
from scnf_jax.settings import RunOptions, parse_config
from scnf_jax.training import (
    Diverged,
    Trainer,
    TrainState,
    has_diverged,
    make_data,
    make_trainer,
    usable_params,
)

_MAX_POINTS = 100_000
_THEN = ", then "


class Interrupted(Exception):
    """Training was asked to stop, and the state is saved; ``exit_code`` is 128 + the signal."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


@dataclasses.dataclass
class Experiment:
    """A run that is set up, before its first step; see :func:`prepare`.

    ``labels`` are those that training sees, -1 elsewhere: ``num_labelled`` that were drawn or given
    by hand, and pseudo-labels where the settings ask for them.
    """

    folder: Path
    command: str
    config: dict[str, Any]
    options: RunOptions
    dataset: Dataset
    num_labelled: int
    labels: np.ndarray
    model: Model
    mesh: Mesh
    trainer: Trainer


def prepare(
    config: Mapping[str, Any],
    folder: str | os.PathLike[str],
    command: str = "",
    train_source: Callable[[Path], object] | None = None,
) -> Experiment:
    """Checks everything that can be checked before training, and claims the run folder.

    Args:
      config: see :func:`parse_config`.
      folder: of the run; made where it is not there.
      command: that trains this run, for its records.
      train_source: given the folder of the run that ``pseudo_labels`` names, trains that run;
        called, with this run's folder claimed and its settings saved, when everything else has
        been checked and that run is not finished. None: it has to be.

    Returns:
      What :func:`train` takes.

    Raises:
      ValueError: for bad settings or data, or a folder that holds a run of another
        config or on other data, naming what differs; nothing in the folder is touched then.
      FolderInUse: where another run trains there.
      OSError: where settings cannot be saved, as on a full disk.

    Warns:
      UserWarning: for vectors that are far from standardised.
    """
    options = parse_config(config)
    path = Path(folder).expanduser().absolute()
    plain = dataclasses.asdict(options)

    def check_folder(data: Mapping[str, Any] | None = None) -> str:
        return check_same_run(
            path,
            _of_the_result(plain),
            lambda saved: _of_the_result(dataclasses.asdict(parse_config(saved))),
            data,
        )

    def begin() -> None:
        before = check_folder(data)  # again: another run may have come since
        write_settings(path, Settings(plain, data, command or before))
        keep_answers(path, answers)

    check_folder()
    dataset = load_dataset(options.dataset, options.validation_size, options.stream)
    answers = given_answers(options, dataset, path)
    seen = seen_labels(options, dataset, answers)
    mesh = parallel.data_mesh()
    model, trainer = build(options, dataset, mesh)
    if dataset.num_levels is None:
        warn_unless_standardised(dataset.train_x)
    data = dataset.description
    check_folder(data)
    source = source_of(options, path, dataset, seen)
    if train_source and source and parallel.agreed(not is_finished(source)):
        with _claimed(path):
            if parallel.is_first():
                begin()
            train_source(source)
    labels = add_pseudo_labels(options, path, dataset, seen)
    if parallel.is_first():
        with claimed(path):
            begin()
            if options.has_pseudo_labels:
                save_labels(path, labels)
    known = int((seen >= 0).sum())
    return Experiment(path, command, plain, options, dataset, known, labels, model, mesh, trainer)


def _claimed(path: Path) -> contextlib.AbstractContextManager[None]:
    """The first process's claim on a run's folder; nothing in the others."""
    return claimed(path) if parallel.is_first() else contextlib.nullcontext()


def _of_the_result(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a result depends on, with the model's defaults: not where its data lies."""
    kept = {key: value for key, value in config.items() if key != "stream"}
    return kept | {"model": with_defaults(config["model"])}


def build(options: RunOptions, dataset: Dataset, mesh: Mesh) -> tuple[Model, Trainer]:
    """The model that the settings name, and what trains it on a dataset like this one.

    Raises:
      ValueError: for settings that contradict each other, the data or the mesh.
    """
    model = build_model(options.model, dataset.event_shape, dataset.num_classes)
    x = jax.ShapeDtypeStruct((options.init_batch_size, *dataset.event_shape), np.float32)
    try:
        jax.eval_shape(model.init, jax.random.key(0), x)
    except TypeError as error:  # of shapes that do not fit together
        raise ValueError(f"model: {error}") from error
    trainer = make_trainer(
        model,
        steps=options.steps,
        batch_size=options.batch_size,
        num_levels=dataset.num_levels,
        mesh=mesh,
        optimizer=options.optimizer,
        objective=options.objective,
        augment=options.augment,
        labelled_fraction=options.labelled_fraction,
        steps_per_call=options.chunk,
        eval_batch_size=options.eval_batch_size,
        init_batch_size=options.init_batch_size,
        posterior_at=options.posterior_at,
    )
    return model, trainer


def train(experiment: Experiment) -> dict[str, Any]:
    """Trains to the last step, from the newest checkpoint where there is one.

    In a job of several processes all of them call it, and the first one writes.

    Args:
      experiment: from :func:`prepare`.

    Returns:
      What ``summary.json`` holds.

    Raises:
      Diverged: after 20 steps in a row that were not finite, or where the last ones were, and the
        density of test objects is not, either; ``summary.json`` says so.
      Interrupted: on SIGTERM or SIGINT; the state is saved, the same command resumes.
    """
    with _claimed(experiment.folder), _signals() as received:
        return _Loop(experiment, received).run()


class _Loop:
    """The host's side of training: logs, evaluates, saves, and stops."""

    def __init__(self, experiment: Experiment, received: list[int]) -> None:
        self.experiment = experiment
        self.options = experiment.options
        self.received = received
        self.data = make_data(
            experiment.dataset.train_x, experiment.labels, experiment.mesh, self.options.seed
        )
        self.stream = self._read_ahead(experiment.dataset.train_x)
        self.checkpoints = experiment.folder / "checkpoints"
        self.state, self.meta = self._start()
        self.step = int(self.state.step)
        self.measured: dict[str, float] = {}
        self.writes = parallel.is_first()
        self.log = MetricsLog(experiment.folder, self.step) if self.writes else None
        self.progress = Progress(self.options.steps, self.step, self.writes)

    def _read_ahead(self, x: TrainObjects) -> ReadAhead | None:
        if not isinstance(x, Rows):
            return None
        trainer = self.experiment.trainer
        return ReadAhead(
            x, lambda step: trainer.rows(self.data, step), self.options.chunk, self.options.steps
        )

    def _init_objects(self) -> np.ndarray | None:
        x = self.experiment.dataset.train_x
        if not isinstance(x, Rows):
            return None
        return x.take(np.asarray(self.experiment.trainer.init_rows(self.data)))

    def _start(self) -> tuple[TrainState, dict[str, Any]]:
        parallel.check_same("config", self.experiment.config)
        parallel.check_same("labels", self.experiment.labels.tolist())
        saved = checkpoints.saved_steps(self.checkpoints)
        parallel.check_same("checkpoints", saved)
        init = self.experiment.trainer.init
        if not saved:
            return init(self.data, self._init_objects()), {"train_seconds": 0.0}
        whole = parallel.replicated(self.experiment.mesh)
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
            jax.eval_shape(init, self.data, self._init_objects()),
        )
        restored = checkpoints.restore_latest(self.checkpoints, target)
        if restored is None:
            raise checkpoints.CheckpointError(f"{self.checkpoints}: the checkpoints disappeared")
        parallel.check_same("newest whole checkpoint", int(restored[0].step))
        return restored

    def run(self) -> dict[str, Any]:
        options, folder = self.options, self.experiment.folder
        self.progress.note(self._headline())
        if self.step < options.steps or "device" not in self.meta:  # an older checkpoint has none
            self.meta |= self._machine()
        try:
            while self.step < options.steps:
                train_metrics = self._chunk()
                self.progress.advance(options.chunk, train_metrics | self._newest_error())
                if self.step % options.eval_every == 0 or self.step == options.steps:
                    self._evaluate(train_metrics)
                if stopped_by := self._stopped_by():
                    self._save()
                    parallel.agreed(0)  # nobody leaves while the first process writes
                    raise Interrupted(
                        f"stopped at step {self.step} of {options.steps}, state saved in {folder}; "
                        "the same command resumes",
                        stopped_by,
                    )
                if self.step % options.checkpoint_every == 0 or self.step == options.steps:
                    self._save()
            summary = self._finish()
            if stopped_by := self._stopped_by():  # nobody leaves while the first process writes
                raise Interrupted(f"stopped when all was done, results are in {folder}", stopped_by)
            return summary
        finally:
            self.progress.close()
            if self.stream is not None:
                self.stream.close()
            if self.log is not None:
                self.log.close()  # last, since a disk may still be full

    def _stopped_by(self) -> int:
        """The signal that one of the processes received, 0 where none did; they meet here."""
        return parallel.agreed(self.received[0] if self.received else 0)

    def _record(self, split: str, values: Mapping[str, float]) -> None:
        if self.log is not None:
            self.log.write(self.step, split, values)

    def _newest_error(self) -> dict[str, float]:
        return {k: v for k, v in self.measured.items() if k == "error_percent"}

    def _headline(self) -> str:
        x = self.experiment.dataset.train_x
        kept = ", read from disk" if self.stream else ""
        size = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))
        pseudo = f", {self._num_pseudo()} pseudo-labelled" if self._num_pseudo() else ""
        return (
            f"{self.options.dataset}: {x.shape[0]} train objects {x.shape[1:]}{kept}, "
            f"{self.experiment.num_labelled} labelled{pseudo}; {size:,} parameters; "
            f"on {_devices(self.experiment.mesh)}; from step {self.step} of "
            f"{self.options.steps}; {self.experiment.folder}"
        )

    def _num_pseudo(self) -> int:
        return int((self.experiment.labels >= 0).sum()) - self.experiment.num_labelled

    def _chunk(self) -> dict[str, float]:
        start = time.perf_counter()
        trainer = self.experiment.trainer
        if self.stream is None:
            self.state, values = trainer.run_chunk(self.state, self.data)
        else:
            x = parallel.split_rows(self.stream.objects(self.step), self.experiment.mesh, axis=1)
            self.state, values = trainer.run_chunk_on(self.state, self.data, x)
        values, in_a_row = jax.device_get((values, self.state.skipped_in_a_row))
        seconds = time.perf_counter() - start
        self.meta["train_seconds"] += seconds
        self.step += self.options.chunk
        good = np.isfinite(values["loss"]) & np.isfinite(values["grad_norm"])
        record = {
            name: float(value[good].mean()) if good.any() else math.nan
            for name, value in values.items()
        }
        record["skipped_steps"] = int((~good).sum())
        record["images_per_second"] = self.options.chunk * self.options.batch_size / seconds
        self._record("train", record)
        if has_diverged(in_a_row, self.options.steps):
            self._diverge(int(in_a_row))
        shown = ("loss", "bits_per_dim", "images_per_second")
        return {name: record[name] for name in shown if name in record}

    def _diverge(self, in_a_row: int) -> NoReturn:
        advice = "lower optimizer.learning_rate or set optimizer.clip_norm"
        if self.experiment.dataset.num_levels is None:
            advice += ", and see that features are standardised"
        error = Diverged(in_a_row, self.step, advice)
        if self.writes:
            write_json(
                self.experiment.folder / "summary.json",
                {**self._summary(), "status": "diverged", "cause": str(error)},
            )
        raise error

    def _measure(self) -> dict[str, float]:
        dataset = self.experiment.dataset
        scores = self.experiment.trainer.evaluate(usable_params(self.state), dataset.test_x)
        return summarize_scores(*scores, dataset)

    def _evaluate(self, train_metrics: Mapping[str, float]) -> None:
        self.measured = self._measure()
        self._record("test", self.measured)
        speed = train_metrics["images_per_second"]
        self.progress.line(self.step, {**self.measured, "images_per_second": speed})

    def _save(self) -> None:
        if self.writes:
            checkpoints.save(self.checkpoints, self.step, self.state, self.meta)

    def _summary(self) -> dict[str, Any]:
        options = self.options
        return {
            "status": "finished",
            "dataset": options.dataset,
            "command": self.experiment.command,
            "config": self.experiment.config,
            "num_labelled": self.experiment.num_labelled,
            "num_pseudo_labelled": self._num_pseudo(),
            "seed": options.seed,
            "label_seed": options.resolved_label_seed,
            "label_file": options.resolved_label_file,
            "evaluated_on": "validation" if options.validation_size else "test",
            "steps": self.step,
            "skipped_steps": int(self.state.skipped),
            "train_seconds": round(self.meta["train_seconds"], 1),
            "images_per_second": round(
                self.step * options.batch_size / max(self.meta["train_seconds"], 1e-9), 1
            ),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(self.state.params)),
            **{key: self.meta[key] for key in ("device", "cpu_count", "versions")},
        }

    def _machine(self) -> dict[str, Any]:
        """What trains the run now, after the devices that trained it before."""
        names = ("scnf_jax", "jax", "flax", "optax", "numpy")
        devices = self.meta["device"].split(_THEN) if "device" in self.meta else []
        now = _devices(self.experiment.mesh)
        return {
            "device": _THEN.join(devices if devices[-1:] == [now] else [*devices, now]),
            "cpu_count": parallel.usable_cores(),
            "versions": {name: importlib.metadata.version(name) for name in names},
        }

    def _finish(self) -> dict[str, Any]:
        folder = self.experiment.folder
        # A run that was whole when it was resumed has not been evaluated by this process.
        measured = self.measured or self._measure()
        in_a_row = int(self.state.skipped_in_a_row)
        if in_a_row and not np.isfinite(measured.get("log_prob", 0.0)):
            self._diverge(in_a_row)  # too late for the limit
        summary = self._summary() | {
            "test_error_percent": measured["error_percent"],
            "bits_per_dim": measured.get("bits_per_dim"),
            "log_prob_nats": measured.get("log_prob"),
        }
        if self.writes:
            write_json(folder / "summary.json", summary)  # before figures, which may fail
            self._draw(summary)
            write_json(folder / "summary.json", summary)
        return summary

    def _draw(self, summary: dict[str, Any]) -> None:
        """Draws the run's figures; what they measure goes into the summary."""
        folder, dataset = self.experiment.folder, self.experiment.dataset
        params = jax.device_get(usable_params(self.state))
        figures.plot_curves(
            folder / "curves.png", read_metrics(folder), dataset.num_levels is not None
        )
        model = self.experiment.model
        if not isinstance(model, SemiConditionalFlow):
            pass  # no density, no samples
        elif drawable(dataset.event_shape, dataset.num_levels):
            gallery.plot_samples(folder / "samples.png", Engine(self._as_loaded(params)))
        elif dataset.event_shape == (2,):
            rows = at_most(_MAX_POINTS, np.arange(dataset.train_x.shape[0]))
            points = take(dataset.train_x, rows)
            extent, log_joint, integral = figures.density_grid(model, params, points)
            summary["density_integral"] = integral
            labels = self.experiment.labels[rows]
            figures.plot_density(folder / "density.png", extent, log_joint, points, labels)

    def _as_loaded(self, params: Params) -> LoadedRun:
        experiment = self.experiment
        return LoadedRun(
            experiment.model,
            params,
            experiment.config,
            self.step,
            experiment.folder,
            experiment.dataset.event_shape,
            experiment.dataset.num_levels,
            experiment.command,
        )


def _devices(mesh: Mesh) -> str:
    """Such as ``8 x TPU v4``."""
    return f"{mesh.size} x {mesh.devices.flat[0].device_kind}"


def summarize_scores(
    log_prob: np.ndarray | None, log_posterior: np.ndarray, dataset: Dataset
) -> dict[str, float]:
    """Error, bits/dim and mean log-likelihood of a test set.

    Args:
      log_prob: ``log p(x) [N]`` in nats; None for a model without a density.
      log_posterior: ``[N, K]``.
      dataset: that they were computed on.

    Returns:
      ``error_percent``, and with a density ``bits_per_dim`` and ``log_prob``.

    Raises:
      RuntimeError: where bits/dim of grey levels is below 0: no density does that.
    """
    measured = {"error_percent": metrics.error_percent(log_posterior, dataset.test_y)}
    if log_prob is None:
        return measured
    mean = float(np.mean(log_prob.astype(np.float64)))
    bits = metrics.bits_per_dim(mean, math.prod(dataset.event_shape), dataset.num_levels)
    if dataset.num_levels is not None and bits < 0:
        raise RuntimeError(
            f"bits/dim of {bits:.3f}: grey levels cannot have less than 0, so a log-det is wrong"
        )
    return measured | {"bits_per_dim": bits, "log_prob": mean}


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT; a second one acts as usual."""
    received: list[int] = []
    previous: dict[signal.Signals, Any] = {}

    def note(number: int, frame: object) -> None:
        del frame
        received.append(number)
        for name, handler in previous.items():
            signal.signal(name, handler)

    for name in (signal.SIGTERM, signal.SIGINT):
        previous[name] = signal.getsignal(name)
    try:
        for name in previous:
            signal.signal(name, note)
    except ValueError:  # not the main thread: whoever runs us handles signals
        pass
    try:
        yield received
    finally:
        for name, handler in previous.items():
            with contextlib.suppress(ValueError):
                signal.signal(name, handler)

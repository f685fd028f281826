"""A trained model back from a folder: a run's, or one that :func:`export_run` wrote."""

import math
import os
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from scnf_jax import checkpoints
from scnf_jax.bijectors.base import Params
from scnf_jax.folders import (
    WEIGHTS,
    Settings,
    made,
    read_settings,
    replacing,
    write_settings,
    write_text,
)
from scnf_jax.labels import copy_answers
from scnf_jax.losses import Model
from scnf_jax.models import build_model
from scnf_jax.settings import RunOptions, parse_config

_FORMAT = "scnf_jax"


class LoadedRun(NamedTuple):
    """A trained model; see :func:`load_run`.

    Attributes:
      model: the density; for ``m1m2`` and ``classifier`` what these builders of
        :mod:`scnf_jax.models` give.
      params: those to use: the averaged ones where averaging was on.
      config: the settings of the run, as plain dicts.
      step: steps that the parameters have been trained for.
      folder: that it came from.
      event_shape: of one object.
      num_levels: grey levels of a pixel; None for vectors.
      command: that trained it; empty where none was recorded.
    """

    model: Model
    params: Params
    config: dict[str, Any]
    step: int
    folder: Path
    event_shape: tuple[int, ...]
    num_levels: int | None
    command: str

    @property
    def num_classes(self) -> int:
        """K."""
        return self.model.num_classes

    @property
    def num_dims(self) -> int:
        """Dimensions of one object."""
        return math.prod(self.event_shape)

    @property
    def test_name(self) -> str:
        """What the test part of its data is called: ``validation`` where objects were held out."""
        return "validation" if self.options.validation_size else "test"

    @property
    def options(self) -> RunOptions:
        """The settings, checked and with their defaults."""
        return parse_config(self.config)


def load_run(folder: str | os.PathLike[str]) -> LoadedRun:
    """Gives a trained model back, for use in other code.

    No code and no pickle in the folder is executed: settings are JSON, parameters plain
    arrays whose names, shapes and dtypes have to be those of the model.

    Args:
      folder: of a run, as ``train.py`` writes it, or of an exported model.

    Returns:
      Model, parameters, settings and step; ``model.log_prob(params, x)`` takes float32
      images in [0, 1), or vectors on the scale of the training data.

    Raises:
      ValueError: where the folder holds no run, or a damaged export.
      CheckpointError: where a run has no checkpoint, or none that is whole.
    """
    path = Path(folder).expanduser().absolute()
    settings = read_settings(path)
    try:
        options = parse_config(settings.config)
    except ValueError as error:
        raise ValueError(f"{path}: expected a run that trained a model ({error})") from None
    try:
        keys = ("event_shape", "num_classes", "num_levels")
        event_shape, num_classes, num_levels = (settings.data[key] for key in keys)
        event_shape, num_classes = tuple(map(index, event_shape)), index(num_classes)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path / 'config.json'}: expected a run's settings, got a damaged file ({error})"
        ) from None
    model = build_model(options.model, event_shape, num_classes)
    x = jax.ShapeDtypeStruct((options.init_batch_size, *event_shape), np.float32)
    target = jax.eval_shape(model.init, jax.random.key(0), x)
    if (path / WEIGHTS).exists():
        params, step = _read_weights(path / WEIGHTS, target)
    else:
        params, step = _read_checkpoint(path, target, bool(options.optimizer.ema_decay))
    return LoadedRun(
        model,
        params,
        settings.config,
        step,
        path,
        event_shape,
        num_levels,
        settings.command,
    )


def _read_checkpoint(path: Path, target: Params, averaged: bool) -> tuple[Params, int]:
    groups = {"step": jax.ShapeDtypeStruct((), np.int32), "params": target}
    if averaged:
        groups["ema_params"] = target
    restored = checkpoints.restore_group(path / "checkpoints", groups)
    if restored is None:
        raise checkpoints.CheckpointError(
            f"{path / 'checkpoints'}: no checkpoint yet; run train.py with --workdir={path}"
        )
    state, _ = restored
    return state["ema_params" if averaged else "params"], int(state["step"])


def _read_weights(path: Path, target: Params) -> tuple[Params, int]:
    from safetensors import SafetensorError, safe_open

    wanted = checkpoints.flatten(target)
    try:
        with safe_open(path, framework="numpy") as archive:
            step = int((archive.metadata() or {})["step"])
            found = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: expected exported weights, got a damaged file ({error})"
        ) from None
    if difference := checkpoints.first_difference(found, wanted):
        raise ValueError(
            f"{path}: {difference}; the weights are of another model than config.json beside them"
        )
    leaves = [jax.numpy.asarray(found[name]) for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(target), leaves), step


def export_folder(run: LoadedRun, folder: str | os.PathLike[str]) -> Path:
    """Where :func:`export_run` may write, so that nothing but an older export is replaced.

    Raises:
      ValueError: for the run's own folder, or one that holds something else than an export.
    """
    path = Path(folder).expanduser().resolve()
    if path == run.folder.resolve():
        raise ValueError(f"output: expected another folder than the run's own, got {path}")
    if path.is_dir() and any(path.iterdir()) and not _is_export(path):
        raise ValueError(
            f"output: expected a new folder, or one that export wrote, got {path}, which holds "
            "other files"
        )
    return path


def _is_export(folder: Path) -> bool:
    """Whether the weights in a folder are of this package; other models have files of this name."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / WEIGHTS, framework="numpy") as archive:
            return bool((archive.metadata() or {}).get("format") == _FORMAT)
    except (OSError, SafetensorError):
        return False


def export_run(run: LoadedRun, folder: str | os.PathLike[str], card: str) -> list[Path]:
    """Writes a model to share: ``model.safetensors``, ``config.json``, ``README.md``.

    A run with a ``label_file`` has ``answers.csv`` copied, too, so that what needs to know the
    labels that the model has seen works on the export.

    :func:`load_run` on that folder gives the same parameters, bit for bit.

    Args:
      run: the trained model.
      folder: made where it is not there.
      card: text of ``README.md``; see :func:`~scnf_jax.reporting.card.model_card`.

    Returns:
      The files.

    Raises:
      ValueError: see :func:`export_folder`; where the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path = made(export_folder(run, folder), "output")
    data = {
        "event_shape": run.event_shape,
        "num_classes": run.num_classes,
        "num_levels": run.num_levels,
    }
    write_settings(path, Settings(run.config, data, run.command))
    arrays = jax.tree.map(np.ascontiguousarray, jax.device_get(checkpoints.flatten(run.params)))
    try:
        with replacing(path / WEIGHTS) as temporary:
            save_file(arrays, temporary, {"step": str(run.step), "format": _FORMAT})
    except SafetensorError as error:
        raise ValueError(f"output: {path / WEIGHTS} could not be written ({error})") from None
    write_text(path / "README.md", card)
    written = [path / name for name in (WEIGHTS, "config.json", "README.md")]
    return written + copy_answers(run.folder, path)

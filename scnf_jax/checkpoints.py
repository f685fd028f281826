"""Checkpoints: Orbax holds the arrays, a manifest proves that they are whole.

A checkpoint is the folder ``checkpoints/STEP`` with ``arrays/`` (Orbax) and
``manifest.json`` (SHA-256 of every file, and of itself). It is written to a temporary
folder that is renamed when complete, so that an interrupted save leaves nothing that
could be taken for a checkpoint.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

Array = jax.Array
_TEMPORARY = ".incomplete-"


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or of another model; the message says which file."""


def flatten(tree: Any) -> dict[str, Array]:
    """A pytree as a dict from paths, as in ``params/body/0/bias``, to leaves."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def save(folder: Path, step: int, state: Any, meta: Mapping[str, Any], keep: int = 2) -> None:
    """Writes one checkpoint whole, then removes the oldest, and those of later steps.

    Args:
      folder: that holds the checkpoints.
      step: of the state; a checkpoint of it that is there already is replaced.
      state: pytree of arrays.
      meta: small JSON values kept beside the state.
      keep: checkpoints that stay.

    Raises:
      CheckpointError: where the folder cannot be written; older checkpoints stay.
    """
    folder = folder.absolute()
    target, temporary = folder / str(step), folder / f"{_TEMPORARY}{step}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(leftover)
        arrays = jax.device_get(flatten(state))
        _check_space(folder, sum(array.nbytes for array in arrays.values()))
        temporary.mkdir()
        _checkpointer().save(temporary / "arrays", arrays)
        files = {name: _digest(temporary / name) for name in _files(temporary)}
        _write_manifest(temporary, {"step": step, "meta": dict(meta), "files": files})
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    except (OSError, ValueError) as error:  # ValueError: what TensorStore makes of a full disk
        raise CheckpointError(
            f"{temporary}: the checkpoint of step {step} could not be written ({error}); free "
            "space or permissions there, then run the same command to resume"
        ) from error
    saved = saved_steps(folder)
    until_now = [other for other in saved if other <= step]
    later = [other for other in saved if other > step]  # damaged ones that were passed over
    for old in until_now[:-keep] + later:
        shutil.rmtree(folder / str(old))


def _check_space(folder: Path, needed: int) -> None:
    """Before Orbax begins: on a disk that fills up, its threads log a traceback per array."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"no space left: {needed:,} bytes needed, {free:,} free")


def saved_steps(folder: Path) -> list[int]:
    """Steps that have a checkpoint, in order; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal())


def restore_latest(folder: Path, target: Any) -> tuple[Any, dict[str, Any]] | None:
    """Loads the newest checkpoint that is whole.

    Args:
      folder: that holds the checkpoints.
      target: pytree of arrays, or of ``jax.ShapeDtypeStruct`` with shardings: structure,
        shapes, dtypes and placement of the result.

    Returns:
      The state and its meta; None where there is no checkpoint.

    Raises:
      CheckpointError: where every checkpoint is damaged, or one does not fit ``target``.

    Warns:
      RuntimeWarning: for every damaged checkpoint that is passed over.
    """

    def load(step: int) -> tuple[Any, dict[str, Any]]:
        wanted = flatten(target)
        arrays = _load_arrays(folder.absolute() / str(step), wanted)
        return jax.tree.unflatten(jax.tree.structure(target), list(arrays.values()))

    return _newest_whole(folder, load)


def restore_group(
    folder: Path, groups: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Loads parts of the newest whole checkpoint, those of ``groups`` that it has.

    Args:
      folder: that holds the checkpoints.
      groups: targets by name of the state's field, as in :func:`restore_latest`.

    Returns:
      The loaded groups by name, and meta; None where there is no checkpoint.

    Raises:
      CheckpointError: as :func:`restore_latest`.
    """

    def load(step: int) -> dict[str, Any]:
        path = folder.absolute() / str(step)
        present = {name.split("/", 1)[0] for name in _saved_arrays(path)}
        found = {name: target for name, target in groups.items() if name in present}
        arrays = _load_arrays(path, flatten(found), partial=True)
        return jax.tree.unflatten(jax.tree.structure(found), list(arrays.values()))

    return _newest_whole(folder, load)


def _newest_whole(folder: Path, load: Callable[[int], Any]) -> tuple[Any, dict[str, Any]] | None:
    steps = saved_steps(folder)
    problem = ""
    for step in reversed(steps):
        try:
            meta = _verify(folder / str(step))
        except CheckpointError as error:
            problem = str(error)
            warnings.warn(f"checkpoint passed over: {problem}", RuntimeWarning, stacklevel=3)
            continue
        return load(step), meta
    if steps:
        raise CheckpointError(
            f"{problem}; no other checkpoint in {folder} is whole. Restore the file, or remove "
            "the run folder to start again"
        )
    return None


def first_difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Where arrays are not the wanted ones, by name, shape and dtype.

    Args:
      found: arrays, or their metadata, by name.
      wanted: the same.

    Returns:
      What was expected and what came, of the first name that differs; empty where none does.
    """

    def describe(array: Any) -> str:
        return "nothing" if array is None else f"{array.dtype}{list(array.shape)}"

    for name in sorted({*found, *wanted}):
        got, want = describe(found.get(name)), describe(wanted.get(name))
        if got != want:
            return f"expected {want} at {name}, got {got}"
    return ""


def _checkpointer() -> Any:
    """Orbax for this process alone: every device has the whole state, so one process saves it."""
    import orbax.checkpoint as ocp

    this = jax.process_index()
    options = ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def _saved_arrays(path: Path) -> dict[str, Any]:
    return dict(_checkpointer().metadata(path / "arrays").item_metadata.tree)


def _load_arrays(path: Path, wanted: Mapping[str, Any], partial: bool = False) -> dict[str, Array]:
    import orbax.checkpoint as ocp

    saved = _saved_arrays(path)
    compared = {name: saved[name] for name in wanted if name in saved} if partial else saved
    if difference := first_difference(compared, wanted):
        raise CheckpointError(f"{path}: {difference}; the checkpoint is of another model")
    # Shapes are checked above; what is not wanted is restored too, and dropped.
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in saved}
    restored = _checkpointer().restore(
        path / "arrays", args=ocp.args.PyTreeRestore(restore_args=as_numpy)
    )
    return {name: _placed(restored[name], wanted[name]) for name in wanted}


def _placed(array: np.ndarray, like: Any) -> Array:
    """The array on the devices of ``like``, where it says which; else on the first one."""
    sharding = getattr(like, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _files(folder: Path) -> list[str]:
    found = [Path(root) / name for root, _, names in os.walk(folder) for name in names]
    return sorted(str(path.relative_to(folder)) for path in found)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _seal(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    with (folder / "manifest.json").open("w") as stream:
        json.dump({**manifest, "sha256": _seal(manifest)}, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())


def _verify(folder: Path) -> dict[str, Any]:
    """The meta of a checkpoint, every byte of which is proved by its manifest."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
        seal = manifest.pop("sha256")
        if seal != _seal(manifest):
            raise ValueError("its own SHA-256 differs")
        files, meta = manifest["files"], manifest["meta"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged or missing ({error})") from None
    for name, digest in files.items():
        try:
            actual = _digest(folder / name)
        except OSError as error:
            raise CheckpointError(f"{folder / name}: missing ({error})") from None
        if actual != digest:
            raise CheckpointError(f"{folder / name}: damaged, its SHA-256 differs")
    return dict(meta)

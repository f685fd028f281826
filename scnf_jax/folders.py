"""What a run folder's settings file holds, and who may write into the folder."""

import contextlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

WEIGHTS = "model.safetensors"  # of an export, beside its settings


class FolderInUse(ValueError):
    """Another run writes into the folder."""


class Settings(NamedTuple):
    """What ``config.json`` holds.

    Attributes:
      config: all settings, as plain dicts.
      data: ``event_shape``, ``num_classes`` and ``num_levels``, and of a run how many objects it
        had and their fingerprint.
      command: that trains the run, without its folder; empty where none was given.
    """

    config: dict[str, Any]
    data: dict[str, Any]
    command: str = ""


def made(folder: Path, option: str) -> Path:
    """The folder, made where it is not there.

    Args:
      folder: to be written into.
      option: that named it, for the message.

    Raises:
      ValueError: where that cannot be, or nothing can be written into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{option}: expected a folder that can be written, got {error}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{option}: expected a folder that can be written, got {folder}")
    return folder


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside this one, to be written; it takes this one's place when the block is done.

    A reader sees the old content or the new, and an error leaves the old. Of a link it is the file
    behind it whose place is taken.

    Raises:
      OSError: with the file's name, where it cannot be written, as on a full disk.
    """
    target = path.resolve()
    temporary = target.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(target)
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(f"{target}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a file at once; see :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, content: Any) -> None:
    """Writes a file at once; see :func:`replacing`. JSON has no number for what is not finite."""
    write_text(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def _finite(content: Any) -> Any:
    """The same with None in the place of floats that are not finite."""
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a run folder; empty where it is not there.

    Raises:
      ValueError: for a damaged one.
    """
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: expected JSON, got a damaged file ({error})") from None


def write_arrays(path: Path, **arrays: Any) -> None:
    """Writes a compressed ``.npz`` at once; see :func:`replacing`."""
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def write_settings(folder: Path, settings: Settings) -> None:
    """Writes ``config.json``, with numbers as they are, infinite ones too."""
    write_text(folder / "config.json", json.dumps(settings._asdict(), indent=2) + "\n")


def read_settings(folder: Path) -> Settings:
    """Reads ``config.json``.

    Raises:
      ValueError: where it is missing or damaged.
    """
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text())
        groups = content["config"], content["data"]
        if not all(isinstance(group, dict) for group in groups):
            raise TypeError("config and data are no groups of settings")
        return Settings(*groups, content.get("command", ""))
    except FileNotFoundError:
        raise ValueError(
            f"{folder}: expected a run folder, found no config.json; train one with "
            "python train.py --config=configs/digits.py"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: expected a run's settings, got a damaged file ({error})"
        ) from None


def check_same_run(
    folder: Path,
    config: Mapping[str, Any],
    complete: Callable[[Mapping[str, Any]], Any],
    data: Mapping[str, Any] | None = None,
) -> str:
    """Refuses a folder that holds a run of another config, or on other data; touches nothing.

    Args:
      folder: of the run, there or not.
      config: settings of now, all of them.
      complete: gives saved settings the defaults of those that are newer than the folder.
      data: of now, where it has been read; see :class:`Settings`. What an older folder did not
        record of it is not compared.

    Returns:
      The command that the folder's run was begun with; empty where there is none.

    Raises:
      ValueError: naming the keys that differ; for an exported model.
    """
    if not (folder / "config.json").exists():
        return ""
    saved = read_settings(folder)
    if (folder / WEIGHTS).exists():
        raise ValueError(f"workdir: {folder} holds an exported model; give another --workdir")
    remedy = "give another --workdir, or remove the folder to start again"
    try:
        then = _dotted(complete(saved.config))
    except ValueError as error:
        raise ValueError(f"workdir: {folder} holds another run ({error}); {remedy}") from None
    if differ := _differences(then, _dotted(config)):
        raise ValueError(f"workdir: {folder} holds a run of another config ({differ}); {remedy}")
    if differ := differing_data(saved, data or {}):
        raise ValueError(
            f"workdir: {folder} holds a run on other data ({differ}); bring that back, or {remedy}"
        )
    return saved.command


def differing_data(saved: Settings, data: Mapping[str, Any]) -> str:
    """What of the data is another than it was, for a message; empty where nothing is.

    What an older folder or an export did not record is not compared.
    """
    now = {key: value for key, value in _dotted(data).items() if key in saved.data}
    return _differences({key: saved.data[key] for key in now}, now)


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    keys = [key for key in sorted({*now, *then}) if now.get(key) != then.get(key)]
    return "; ".join(f"{k}: {then.get(k)!r} there, {now.get(k)!r} now" for k in keys)


def _dotted(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _dotted(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Makes a run's folder and holds its lock, so that two runs never write into it.

    Raises:
      FolderInUse: where another run holds it.
      ValueError: where the folder cannot be written.

    Warns:
      UserWarning: where its file system has no locks.
    """
    made(folder, "workdir")
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUse(
                f"workdir: {folder} is in use by another run; wait for it or give another --workdir"
            ) from None
        except OSError as error:  # a file system without such locks
            warnings.warn(
                f"{folder} cannot be locked ({error}): start no second run in it", stacklevel=3
            )
        yield

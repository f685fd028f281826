"""Trains a semi-conditional normalizing flow: ``python train.py --config=configs/digits.py``."""

import dataclasses
import os
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from scnf_jax import parallel, runs, training
from scnf_jax.baselines import run_baseline
from scnf_jax.checkpoints import CheckpointError
from scnf_jax.folders import FolderInUse
from scnf_jax.settings import LabelOptions, parse_config

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config to train, such as configs/digits.py; --config.KEY=VALUE overrides a setting.",
    lock_config=False,  # also a setting that the file leaves at its default
    accept_new_attributes=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run folder; default runs/NAME of the config. The same command resumes it."
)
_OF_A_CONFIG_FILE = (
    AttributeError,
    ImportError,
    KeyError,
    NameError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
)
_OF_THE_LABELS = (*(field.name for field in dataclasses.fields(LabelOptions)), "stream")


def _name(path: str) -> str:
    """``configs/mnist_table.py:glow_sgd`` as ``mnist_table-glow_sgd``."""
    file, _, argument = path.partition(":")
    return Path(file).stem + (f"-{argument}" if argument else "")


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags and loads the config; what is wrong with them is one line and exit code 2."""
    try:
        rest = flags.FLAGS(argv)
        if _CONFIG.value is None:
            raise ValueError("expected --config=FILE, such as --config=configs/digits.py")
        _CONFIG.value.to_dict()  # a file that is missing fails at first access
        if len(rest) > 1:
            raise ValueError(f"expected only --flags, got {rest[1]!r}")
    except (flags.Error, *_OF_A_CONFIG_FILE) as error:
        lines = str(error).replace("\\n", "\n").replace("\\'", "'").strip().splitlines()
        if "Traceback" in str(error):  # of a failure in a config file
            sys.exit(_complain(lines[-1]))
        message = " ".join(lines)
        if isinstance(error, AttributeError | KeyError):  # a group, and a near one where there is
            key = message.strip("\"'").replace("'", "")
            message = f"--config: the file lists no such group of settings: {key}"
        sys.exit(_complain(message))
    return rest


def main(argv: list[str]) -> None:
    """Trains, and says how it went.

    Exit codes: 0 trained; 1 diverged, or another process of the job was lost; 2 bad settings,
    data or folder, or files that cannot be written or read; 128 + n on signal n.
    """
    del argv
    logging.set_verbosity(logging.ERROR)  # the libraries log their own progress
    workdir = _WORKDIR.value or str(Path("runs") / _name(flags.FLAGS["config"].config_filename))
    config = _CONFIG.value.to_dict()
    distributed = config.pop("distributed", None)
    try:
        if distributed is not None:
            parallel.join_processes(distributed)
        if "baseline" in config:
            _report(run_baseline(config, workdir, _command()), workdir)
            return
    except (ValueError, OSError) as error:
        sys.exit(_complain(str(error)))
    try:
        _train(config, workdir, _command(), flags.FLAGS["config"].config_filename)
    except jax.errors.JaxRuntimeError as error:
        if distributed is None:
            raise
        sys.stderr.write(
            f"train.py: {str(error).splitlines()[0]}\ntrain.py: in a job of several processes this "
            "most often means that another one is gone; start all of them again to resume from "
            f"the newest checkpoint in {workdir}\n"
        )
        sys.stderr.flush()
        os._exit(1)  # without waiting for the process that is gone


def _train(
    config: Mapping[str, Any], workdir: str, command: str, filename: str | None, where: str = ""
) -> None:
    """Trains one run, and before it the one whose labels it learns from; exits where that fails.

    Args:
      config: of the run.
      workdir: its folder.
      command: that trains it, for its records.
      filename: of its config, where a mode of it may go first.
      where: what is added to messages.
    """
    try:
        train_source = _source_trainer(filename, config) if filename else None
        experiment = runs.prepare(config, workdir, command, train_source)
    except (ValueError, OSError) as error:  # OSError: such as a full disk
        sys.exit(_complain(f"{error}{where}"))
    try:
        summary = runs.train(experiment)
    except (FolderInUse, parallel.Disagreement, CheckpointError) as error:
        sys.exit(_complain(f"{error}{where}"))
    except runs.Interrupted as stopped:
        sys.stderr.write(f"{stopped}\n")
        sys.exit(stopped.exit_code)
    except OSError as error:  # such as a full disk, or data that can no longer be read
        sys.exit(
            _complain(
                f"{error}; the newest checkpoint in {experiment.folder} is kept, and the same "
                "command resumes from it"
            )
        )
    except training.Diverged as error:
        sys.stderr.write(f"train.py: {error}{where}\n")
        sys.exit(1)
    if parallel.is_first():
        _report(summary, experiment.folder)


def _source_trainer(filename: str, config: Mapping[str, Any]) -> Callable[[Path], None] | None:
    """What trains the run that gives pseudo-labels, where it is a mode of this config file.

    The mode's own settings stand but for those of data, labels and seed, which are this run's, and
    for views where this run's have been changed: what leaves a class as it is is the data's matter.

    Args:
      filename: of the config, with its mode.
      config: of the run that wants the labels.

    Returns:
      Trains it into a folder; None where ``pseudo_labels`` names no mode.

    Raises:
      ValueError: for bad settings, or a mode that is not there or learns from another one.
    """
    wanted = re.fullmatch(r"\{workdir\}/(\w+)", parse_config(config).pseudo_labels or "")
    if wanted is None:
        return None
    (file, _, mode), first = filename.partition(":"), wanted[1]
    try:
        get_config = runpy.run_path(file)["get_config"]
        own = get_config(first).to_dict()
        usual = (get_config(mode) if mode else get_config()).to_dict()
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"pseudo_labels: expected {{workdir}}/MODE with a mode of {file}, got {first} ({error})"
        ) from error
    if "{workdir}" in (own.get("pseudo_labels") or ""):
        raise ValueError(
            f"pseudo_labels: expected a mode of {file} that learns from no other, got {first}"
        )
    own.pop("distributed", None)
    given = {key: config[key] for key in _OF_THE_LABELS if key in config}
    changed = _changed(given, own)
    views = _changed(config.get("augment", {}), usual.get("augment", {}))
    settings = changed | {f"augment.{key}": value for key, value in views.items()}
    words = [f"--config.{key}={value}" for key, value in settings.items()]
    typed = shlex.join(["python", "train.py", f"--config={file}:{first}", *words])
    own |= changed | {"augment": own.get("augment", {}) | views}
    where = (
        f" (in the run of :{first}, which goes first; to change it, train it by {typed} "
        "--workdir=FOLDER, and give --config.pseudo_labels=FOLDER here)"
    )
    return lambda folder: _train(own, str(folder), typed, None, where)


def _changed(settings: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value != usual.get(key)}


def _command() -> str:
    """What was typed, but for the folder and for what differs between a job's processes."""
    given: list[str] = []
    for argument in sys.argv[1:]:
        if re.match(r"--?[A-Za-z]", argument):
            given.append("--" + argument.lstrip("-"))
        else:  # `--flag value`, which is `--flag=value`
            given[-1] += f"={argument}"
    left_out = re.compile(r"--(workdir|config\.distributed)(=|$)")
    return shlex.join(["python", "train.py", *(word for word in given if not left_out.match(word))])


def _report(summary: Mapping[str, Any], folder: object) -> None:
    bits = summary["bits_per_dim"]
    density = "no density" if bits is None else f"{bits:.3f} bits/dim"
    print(
        f"{summary['evaluated_on']} error {summary['test_error_percent']:.2f}%, "
        f"{density}, {summary['num_labelled']} labels, "
        f"{summary['train_seconds']:.0f} s of training; summary.json is in {folder}"
    )


def _complain(message: str) -> int:
    sys.stderr.write(f"train.py: {message}\n")
    return 2


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=parse_flags)
    except KeyboardInterrupt:  # before or after training, which saves its state first
        sys.exit(130)

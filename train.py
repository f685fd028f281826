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

from scnf_jax import parallel, runs
from scnf_jax.baselines import run_baseline
from scnf_jax.checkpoints import CheckpointError
from scnf_jax.folders import FolderInUse
from scnf_jax.settings import LabelOptions

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
    except (flags.Error, AttributeError, OSError, ValueError, KeyError, TypeError) as error:
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
        _train(config, workdir, _command())
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


def _train(config: Mapping[str, Any], workdir: str, command: str) -> None:
    """Trains one run, after the one whose labels it learns from; exits where that fails."""
    try:
        experiment = runs.prepare(config, workdir, command, _source_trainer(config))
    except (ValueError, OSError) as error:  # OSError: such as a full disk
        sys.exit(_complain(str(error)))
    try:
        summary = runs.train(experiment)
    except (FolderInUse, parallel.Disagreement, CheckpointError) as error:
        sys.exit(_complain(str(error)))
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
    except runs.Diverged as error:
        sys.stderr.write(f"train.py: {error}\n")
        sys.exit(1)
    if parallel.is_first():
        _report(summary, experiment.folder)


def _source_trainer(config: Mapping[str, Any]) -> Callable[[str], None] | None:
    """What trains the run that gives pseudo-labels, where it is a mode of this config file."""
    source = re.fullmatch(r"\{workdir\}/(\w+)", config.get("pseudo_labels") or "")
    if source is None:
        return None
    path = flags.FLAGS["config"].config_filename.partition(":")[0]
    own = runpy.run_path(path)["get_config"](source[1]).to_dict()
    own.pop("distributed", None)
    given = {key: config[key] for key in _OF_THE_LABELS if key in config}
    same = {key: value for key, value in given.items() if value != own.get(key)}
    command = ["python", "train.py", f"--config={path}:{source[1]}"]
    command += [f"--config.{key}={value}" for key, value in same.items()]
    return lambda folder: _train(own | same, folder, shlex.join(command))


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
    app.run(main, flags_parser=parse_flags)

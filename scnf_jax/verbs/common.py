"""What verbs share: a trained model, a user's objects, where results go."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scnf_jax.data import Dataset, at_most, load_dataset, take
from scnf_jax.data.files import Objects, open_objects
from scnf_jax.folders import differing_data, made, read_settings
from scnf_jax.inference import Engine, Scores
from scnf_jax.loading import LoadedRun, load_run
from scnf_jax.losses import LEVELS_AT
from scnf_jax.options import check_range

MAX_TRAIN_SCORES = 5000
_RECORDS = ("config.json", "summary.json", "answers.csv")


class Verb(NamedTuple):
    """One word of the command line.

    Attributes:
      name: the word.
      help: one line.
      example: a command that works.
      add_arguments: declares its options.
      run: does it; gives what to tell a person.
    """

    name: str
    help: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], str]


def add_run(parser: argparse.ArgumentParser) -> None:
    """The run folder, and how many objects go through the model at a time."""
    parser.add_argument("run", metavar="RUN", help="folder of a run, or of an exported model")
    parser.add_argument(
        "--batch-size",
        type=int,
        default=250,
        help="objects at a time; bounds the memory; default: %(default)s",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the dequantisation noise and of samples; default: %(default)s",
    )


def add_input(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """A user's objects."""
    fallback = "" if required else "; default: the test set of the run"
    parser.add_argument(
        "--input",
        required=required,
        metavar="FILE",
        help=f".npy, .npz with x (and y), a PNG, or a folder of PNG files{fallback}",
    )


def add_posterior_at(parser: argparse.ArgumentParser) -> None:
    """Where objects are classified."""
    parser.add_argument(
        "--posterior-at",
        choices=LEVELS_AT,
        help="classify grey levels with dequantisation noise, or in their middle; default: as the "
        "run does",
    )


def open_engine(arguments: argparse.Namespace, posterior_at: str | None = None) -> Engine:
    """The model that a command names.

    Args:
      arguments: of the command.
      posterior_at: where objects are classified, whatever the command says. ``noise`` saves a pass
        where the density alone is wanted.

    Raises:
      ValueError: for a seed or a batch size out of range, and as :func:`load_run`.
    """
    check_range("seed", arguments.seed, 0, 2**32 - 1)
    posterior_at = posterior_at or getattr(arguments, "posterior_at", None)
    return Engine(load_run(arguments.run), arguments.batch_size, arguments.seed, posterior_at)


def run_dataset(run: LoadedRun) -> Dataset:
    """The data that a run was trained and tested on.

    Raises:
      ValueError: where they are not there, or have changed since.
    """
    options = run.options
    dataset = load_dataset(options.dataset, options.validation_size, options.stream)
    if differ := differing_data(read_settings(run.folder), dataset.description):
        raise ValueError(
            f"{options.dataset}: expected the data that {run.folder} was trained on, got others "
            f"({differ}); bring those back, or give your objects as --input"
        )
    return dataset


def input_objects(engine: Engine, path: str | None, with_labels: bool = True) -> Objects:
    """A user's objects; without a path the test set of the run.

    Args:
      engine: of the model that they are for.
      path: of the objects.
      with_labels: whether labels in the file are read, and have to be the model's.
    """
    run = engine.run
    if path is not None:
        num_classes = run.num_classes if with_labels else None
        return open_objects(path, run.event_shape, run.num_levels, num_classes)
    dataset = run_dataset(run)
    names = range(len(dataset.test_x))
    field = f"{run.options.dataset} {run.test_name}"
    return Objects(dataset.test_x, names, dataset.test_y, run.event_shape, run.num_levels, field)


def output_path(
    arguments: argparse.Namespace, engine: Engine, default: str, suffixes: Sequence[str] = ()
) -> Path:
    """Where a result goes: ``--output``, or a name in the run folder; its folder is made.

    Raises:
      ValueError: where that folder cannot be made, the name ends in none of the suffixes, or as
        :func:`check_is_not_read`.
    """
    path = Path(arguments.output).expanduser() if arguments.output else engine.run.folder / default
    path = made(path.parent, "output") / path.name
    if suffixes and path.suffix not in suffixes:
        raise ValueError(
            f"output: expected a name that ends in {' or '.join(suffixes)}, got {path.name}"
        )
    check_is_not_read(arguments, engine, path)
    return path


def check_is_not_read(arguments: argparse.Namespace, engine: Engine, path: Path) -> None:
    """Raises ValueError where a result would take the place of what can be needed again.

    That is a file or a folder's picture that the command names, the run's data and labels given by
    hand, and the records of the run itself.
    """
    run, options = engine.run, engine.run.options
    objects = _resolved(getattr(arguments, "input", None), *getattr(arguments, "other", []))
    labels = getattr(arguments, "label_file", None), options.resolved_label_file
    records = [run.folder / name for name in _RECORDS]
    read = objects | _resolved(*labels, options.dataset, *records)
    target = path.resolve()
    if target in read or (target.suffix == ".png" and target.parent in objects):
        raise ValueError(
            f"output: expected another name, since {path} is read by this command or by others"
        )


def _resolved(*paths: str | Path | None) -> set[Path]:
    return {Path(path).expanduser().resolve() for path in paths if path}


def output_folder(arguments: argparse.Namespace, engine: Engine, default: str) -> Path:
    """The folder where results go, made; as :func:`output_path`."""
    chosen = arguments.output
    return made(Path(chosen).expanduser() if chosen else engine.run.folder / default, "output")


def check_limits(arguments: argparse.Namespace, *fields: str, low: int = 1) -> None:
    """Raises ValueError unless these options are at least ``low``."""
    for field in fields:
        if (value := getattr(arguments, field)) < low:
            raise ValueError(f"{field}: expected at least {low}, got {value}")


def add_output(parser: argparse.ArgumentParser, default: str) -> None:
    """Where the result goes."""
    parser.add_argument("--output", metavar="PATH", help=f"default: {default} in the run folder")


def train_scores(engine: Engine) -> Scores:
    """Scores of at most 5,000 train objects, drawn.

    Raises:
      ValueError: for a model without a density.
    """
    engine.require_density()
    x = run_dataset(engine.run).train_x
    return engine.scores(take(x, at_most(MAX_TRAIN_SCORES, np.arange(x.shape[0]))))

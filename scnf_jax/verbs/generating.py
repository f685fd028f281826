"""``sample``, ``relabel``, ``obfuscate``, ``restore``: objects out of a model."""

import argparse
import re
import shlex
from pathlib import Path

import numpy as np

from scnf_jax.analysis.obfuscation import Hidden, hide, latent_shapes, restore
from scnf_jax.analysis.relabelling import relabelled, relabelling_acceptance
from scnf_jax.data.files import read_archive, read_array, write_png
from scnf_jax.folders import made, write_arrays
from scnf_jax.inference import LABEL_CHOICES, Engine
from scnf_jax.options import check_above_zero
from scnf_jax.reporting.pictures import drawable, plot_grid
from scnf_jax.reporting.studies import acceptance_text
from scnf_jax.verbs.common import (
    Verb,
    add_input,
    add_output,
    add_run,
    check_is_not_read,
    check_limits,
    input_objects,
    open_engine,
    output_folder,
    output_path,
    run_dataset,
)

_CHECKED = 500
_SAMPLE = re.compile(r"class\d+-\d{4,}\.png")


def _add_sample(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--label", type=int, help="class of all samples; default: every class")
    parser.add_argument(
        "--count", type=int, default=64, help="samples of each class; default: %(default)s"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="factor on the standard deviations of the priors; below 1: more typical samples; "
        "default: %(default)s",
    )
    add_output(parser, "samples/")


def _sample(arguments: argparse.Namespace) -> str:
    engine = open_engine(arguments)
    num_classes = engine.run.num_classes
    check_limits(arguments, "count")
    check_above_zero("temperature", arguments.temperature)
    if arguments.label is not None:
        _check_label(arguments.label, num_classes)
    classes = range(num_classes) if arguments.label is None else [arguments.label]
    label = np.repeat(np.array(list(classes), np.int32), arguments.count)
    folder = output_folder(arguments, engine, "samples")
    check_is_not_read(arguments, engine, folder / "samples.npz")
    x = engine.to_levels(engine.sample(label, arguments.temperature))
    write_arrays(folder / "samples.npz", x=x, y=label)
    pictures = _write_pictures(folder, engine, x, label)
    return f"{folder}: samples.npz with x {list(x.shape)} and y; {pictures}"


def _write_pictures(folder: Path, engine: Engine, x: np.ndarray, label: np.ndarray) -> str:
    """One PNG a sample, and all of them in one; vectors have none."""
    levels = engine.run.num_levels
    if levels is None or not drawable(x.shape, levels):
        return "no pictures of such objects"
    singles = made(folder / "png", "output")
    for earlier in singles.iterdir():
        if _SAMPLE.fullmatch(earlier.name):
            earlier.unlink()
    for number, (image, y) in enumerate(zip(x, label, strict=True)):
        write_png(singles / f"class{y}-{number:04d}.png", image, levels)
    classes = np.unique(label)
    rows = [x[label == k] for k in classes]
    if len(rows) == 1:
        edge = int(np.ceil(np.sqrt(len(x))))
        blank = np.zeros((-len(x) % edge, *x.shape[1:]), x.dtype)
        rows = list(np.concatenate([x, blank]).reshape(-1, edge, *x.shape[1:]))
    names = [str(k) for k in classes] if len(classes) > 1 else [""] * len(rows)
    grid = np.stack(rows)[:, :20]
    title = "samples x ~ p(x | y)" if len(classes) > 1 else f"samples x ~ p(x | y = {classes[0]})"
    plot_grid(folder / "samples.png", grid, levels, title, names, row_label="class y")
    return f"samples.png, and {len(x)} pictures in png/"


def _add_relabel(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_input(parser, required=False)
    _add_labels(parser, None)
    parser.add_argument(
        "--count", type=int, default=10, help="objects, the first ones; default: %(default)s"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="train a classifier on real objects of the run's data, and count how many of "
        f"{_CHECKED} relabelled test objects it takes for what they are to be",
    )
    add_output(parser, "relabelled.png")


def _add_labels(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument(
        "--labels",
        choices=LABEL_CHOICES,
        default=default,
        help="an object's own label: the most likely one, one sampled from the posterior, or y of "
        f"the input (-1 there: the most likely); default: {default or 'given where there is a y'}",
    )


def _relabel(arguments: argparse.Namespace) -> str:
    engine = open_engine(arguments)
    run = engine.run
    if run.num_levels is None or not drawable(run.event_shape, run.num_levels):
        raise ValueError(
            f"relabel: draws images of 1 or 3 channels, the model's objects are {run.event_shape}; "
            "obfuscate and restore take all objects"
        )
    check_limits(arguments, "count")
    with_labels = arguments.labels in (None, "given")
    objects = input_objects(engine, arguments.input, with_labels)
    num = min(arguments.count, len(objects))
    picture = output_path(arguments, engine, "relabelled.png", [".png"])
    arrays = picture.with_suffix(".npz")
    check_is_not_read(arguments, engine, arrays)
    x = objects[slice(0, num)]
    given = None if objects.y is None else objects.y[:num]
    choice = arguments.labels or ("likely" if given is None else "given")
    label = engine.labels(x, choice, given)
    checked = ""
    if arguments.check:  # first, since it may be refused
        acceptance = relabelling_acceptance(engine, run_dataset(run), _CHECKED)
        checked = "\n" + acceptance_text(acceptance._asdict())
    grid = relabelled(engine, x, label)
    plot_grid(
        picture,
        np.concatenate([x[None], grid]),
        run.num_levels,
        "first row: objects; below: the same z under each label",
        ["object", *(f"y = {k}" for k in range(run.num_classes))],
        [str(k) for k in label],
        column_label=f"label that the object was encoded under ({choice})",
    )
    write_arrays(arrays, x=x, y=label, relabelled=grid)
    return (
        f"{picture} and {arrays.name}: {num} objects under {len(grid)} labels, own: {choice}"
        f"{checked}"
    )


def _add_obfuscate(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_input(parser)
    _add_labels(parser, "likely")
    parser.add_argument(
        "--without-aux",
        action="store_true",
        help="leave out z_aux: z_h alone is published, objects come back with another z_aux",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="a .npz")


def _obfuscate(arguments: argparse.Namespace) -> str:
    engine = open_engine(arguments)
    objects = input_objects(engine, arguments.input, arguments.labels == "given")
    path = output_path(arguments, engine, "", [".npz"])
    x = objects.all()
    label = engine.labels(x, arguments.labels, objects.y)
    hidden = hide(engine, x, label)
    if arguments.without_aux:
        hidden = hidden._replace(z_aux=hidden.z_aux[:, :0])
    write_arrays(path, **hidden._asdict())
    return (
        f"{path}: z_h {list(hidden.z_h.shape)}, z_aux {list(hidden.z_aux.shape)}; encoded under "
        f"labels: {arguments.labels}. The labels are not in the file. How much of the class is: "
        f"python -m scnf_jax leak {shlex.quote(arguments.run)}"
    )


def _add_restore(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--input", required=True, metavar="FILE", help=".npz of obfuscate")
    parser.add_argument(
        "--label", type=int, help="under which all objects come back; or --label-file"
    )
    parser.add_argument("--label-file", metavar="FILE", help=".npy with one label an object")
    parser.add_argument("--output", required=True, metavar="FILE", help="a .npz")


def _restore(arguments: argparse.Namespace) -> str:
    engine = open_engine(arguments)
    hidden = _read_hidden(arguments.input)
    label = _restored_labels(arguments, len(hidden.z_h), engine.run.num_classes)
    path = output_path(arguments, engine, "", [".npz"])
    x = restore(engine, hidden, label)
    write_arrays(path, x=x, y=label)
    drawn = hidden.z_aux.shape[1] == 0 and latent_shapes(engine).z_aux
    fresh = "; z_aux was drawn anew" if drawn else ""
    return f"{path}: x {list(x.shape)}, y{fresh}"


def _read_hidden(name: str) -> Hidden:
    arrays, names = read_archive(Path(name).expanduser(), Hidden._fields)
    if len(arrays) < len(Hidden._fields):
        raise ValueError(f"{name}: expected a .npz of obfuscate with z_h and z_aux, got {names}")
    hidden = Hidden(**arrays)
    rows = [z for z in hidden if z.ndim == 2 and np.issubdtype(z.dtype, np.floating)]
    if len(rows) < len(hidden) or not len(hidden.z_h) == len(hidden.z_aux) > 0:
        raise ValueError(
            f"{name}: expected z_h and z_aux of one row of numbers an object, of at least one"
        )
    for field, z in hidden._asdict().items():
        if (lost := np.flatnonzero(~np.isfinite(z).all(-1))).size:
            raise ValueError(
                f"{name}: expected finite numbers, got others in {len(lost)} of {len(z)} rows of "
                f"{field}, first in row {lost[0]}"
            )
    return hidden


def _restored_labels(arguments: argparse.Namespace, num: int, num_classes: int) -> np.ndarray:
    if (arguments.label is None) == (arguments.label_file is None):
        raise ValueError("label: expected either --label=K or --label-file=FILE.npy")
    if arguments.label is not None:
        _check_label(arguments.label, num_classes)
        return np.full(num, arguments.label, np.int32)
    label = read_array(Path(arguments.label_file).expanduser())
    if label.shape != (num,) or not np.issubdtype(label.dtype, np.integer):
        raise ValueError(
            f"label-file: expected {num} integers, one an object, got {label.dtype} of shape "
            f"{label.shape}"
        )
    for value in np.unique(label):
        _check_label(int(value), num_classes)
    return label.astype(np.int32)


def _check_label(label: int, num_classes: int) -> None:
    if not 0 <= label < num_classes:
        raise ValueError(f"label: expected 0..{num_classes - 1}, got {label}")


VERBS = (
    Verb(
        "sample",
        "draw objects of a class, as pictures and as arrays",
        "python -m scnf_jax sample runs/digits --label=7 --count=64 --temperature=0.8",
        _add_sample,
        _sample,
    ),
    Verb(
        "relabel",
        "objects, and the same objects under every other label",
        "python -m scnf_jax relabel runs/digits --count=10",
        _add_relabel,
        _relabel,
    ),
    Verb(
        "obfuscate",
        "take the class out of objects",
        "python -m scnf_jax obfuscate runs/digits --input=scans.npz --labels=given "
        "--output=hidden.npz",
        _add_obfuscate,
        _obfuscate,
    ),
    Verb(
        "restore",
        "objects back from what obfuscate wrote, under a label",
        "python -m scnf_jax restore runs/digits --input=hidden.npz --label=3 --output=threes.npz",
        _add_restore,
        _restore,
    ),
)

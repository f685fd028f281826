"""``leak``, ``outliers``, ``figures``: what a model has learned, and what not."""

import argparse
from pathlib import Path

import numpy as np

from scnf_jax.analysis.obfuscation import MIN_OBJECTS, measure_leak
from scnf_jax.analysis.probes import PROBES
from scnf_jax.data.files import open_objects
from scnf_jax.folders import write_json
from scnf_jax.reporting.studies import (
    draw_figures,
    leak_record,
    leak_table,
    outlier_study,
    outlier_table,
)
from scnf_jax.verbs.common import (
    Verb,
    add_output,
    add_run,
    check_is_not_read,
    check_limits,
    open_engine,
    output_folder,
    output_path,
    run_dataset,
)


def _add_leak(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--probes", nargs="+", choices=tuple(PROBES), default=list(PROBES), help="default: all"
    )
    parser.add_argument(
        "--max-train",
        type=int,
        default=5000,
        help="objects probes learn from; default: %(default)s",
    )
    parser.add_argument(
        "--max-test",
        type=int,
        default=5000,
        help="objects they are tested on; default: %(default)s",
    )
    add_output(parser, "leak.json")


def _leak(arguments: argparse.Namespace) -> str:
    check_limits(arguments, "max_train", "max_test", low=MIN_OBJECTS)
    engine = open_engine(arguments)
    engine.require_density()
    path = output_path(arguments, engine, "leak.json", [".json"])
    leak = measure_leak(
        engine,
        run_dataset(engine.run),
        arguments.max_train,
        arguments.max_test,
        tuple(arguments.probes),
        arguments.seed,
    )
    record = leak_record(leak)
    write_json(path, record)
    return f"{leak_table(record)}\n\n{path}"


def _add_outliers(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--other",
        action="append",
        default=[],
        metavar="FILE",
        help="foreign objects: .npy, .npz or a folder of PNG files; may be given more than once",
    )
    parser.add_argument(
        "--max-test",
        type=int,
        default=2000,
        help="objects of each set; of a file the first ones; default: %(default)s",
    )
    add_output(parser, "outliers.json")


def _outliers(arguments: argparse.Namespace) -> str:
    check_limits(arguments, "max_test")
    engine = open_engine(arguments)
    engine.require_density()
    run = engine.run
    others: dict[str, np.ndarray] = {}
    for path in arguments.other:
        objects = open_objects(path, run.event_shape, run.num_levels)
        name = Path(path).name
        others[path if name in others else name] = objects[slice(0, arguments.max_test)]
    if run.num_levels is None and not others:
        raise ValueError("other: expected foreign objects, since vectors are not corrupted here")
    path = output_path(arguments, engine, "outliers.json", [".json"])
    check_is_not_read(arguments, engine, path.parent / "densities.png")
    record = outlier_study(engine, run_dataset(run), others, arguments.max_test, path.parent)
    write_json(path, record)
    return f"{outlier_table(record)}\n\n{path} and densities.png"


def _add_figures(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--max-test", type=int, default=2000, help="objects of t-SNE and PCA; default: %(default)s"
    )
    parser.add_argument("--output", metavar="FOLDER", help="default: the run folder")


def _figures(arguments: argparse.Namespace) -> str:
    check_limits(arguments, "max_test", low=2)
    engine = open_engine(arguments)
    engine.require_density()
    folder = output_folder(arguments, engine, ".")
    captions = draw_figures(folder, engine, run_dataset(engine.run), arguments.max_test)
    return "\n".join(f"{folder / name}: {caption}" for name, caption in captions.items())


VERBS = (
    Verb(
        "leak",
        "how much of the class is left in z_h: probes, with intervals",
        "python -m scnf_jax leak runs/digits",
        _add_leak,
        _leak,
    ),
    Verb(
        "outliers",
        "how well p(x) and the posterior tell foreign objects",
        "python -m scnf_jax outliers runs/mnist --other=letters.npz",
        _add_outliers,
        _outliers,
    ),
    Verb(
        "figures",
        "t-SNE and PCA of the latents, samples, interpolation, curves",
        "python -m scnf_jax figures runs/digits",
        _add_figures,
        _figures,
    ),
)

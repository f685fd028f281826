"""The table of results, from the records of runs."""

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scnf_jax.folders import WEIGHTS, made, read_json, read_settings, write_json, write_text
from scnf_jax.reporting import markdown
from scnf_jax.reporting.log import read_metrics

_LONGEST_NAME = 120  # file systems take 255 bytes


class Row(NamedTuple):
    """One row of a table.

    Attributes:
      label: what stands in its first column.
      config: of the command that makes it, such as ``configs/digits.py``.
      paper_error: test error as published, for comparison.
      paper_bits: bits/dim as published.
    """

    label: str
    config: str
    paper_error: str = "-"
    paper_bits: str = "-"


def _seven(file: str, published: bool) -> list[Row]:
    figures = {
        "glow_sgd": ("SCNF-GLOW, SGD", "1.9 ± 0.3", "1.145 ± 0.004"),
        "glow_em": ("SCNF-GLOW, EM-SGD", "1.9 ± 0.0", "1.146 ± 0.002"),
        "glow_em_clf": ("SCNF-GLOW, EM-SGD, classification term", "2.0 ± 0.1", "1.151 ± 0.010"),
        "gmm_sgd": ("SCNF-GMM, SGD", "14.2 ± 2.4", "1.143 ± 0.011"),
        "gmm_em": ("SCNF-GMM, EM-SGD", "13.4 ± 2.8", "1.145 ± 0.005"),
        "gmm_em_clf": ("SCNF-GMM, EM-SGD, classification term", "16.9 ± 5.3", "1.141 ± 0.006"),
        "m1m2": ("M1+M2", "3.3 ± 0.1", "-"),
    }
    return [
        Row(label, f"configs/{file}.py:{name}", *(published_figures if published else ()))
        for name, (label, *published_figures) in figures.items()
    ]


_BASELINES = [
    Row("supervised SVC, the labelled objects alone", "configs/baselines.py:supervised_svc"),
    Row("label spreading", "configs/baselines.py:label_spreading"),
    Row("self-training SVC", "configs/baselines.py:self_training_svc"),
]


def _with(rows: Sequence[Row], settings: str, label: str = "") -> list[Row]:
    return [Row(f"{row.label}{label}", f"{row.config} {settings}") for row in rows]


def _of_images(rows: Sequence[Row]) -> list[Row]:
    """Each on grey levels, and on histograms of gradients."""
    others = _with(rows, "--config.features=gradients", ", histograms of gradients")
    return [row for both in zip(rows, others, strict=True) for row in both]


SECTIONS: dict[str, Sequence[Row]] = {
    "MNIST": [
        Row("this project's own", "configs/mnist.py"),
        Row("this project's own, a third as long", "configs/mnist.py --config.steps=4000"),
        Row("this project's own, one flow alone", "configs/mnist.py:alone"),
        Row("this project's own, one flow alone, small", "configs/mnist.py:small"),
        *_seven("mnist_table", published=True),
        Row("network by consistency, no density", "configs/mnist.py:classifier"),
        Row("network on spread labels, no density", "configs/mnist.py:spread"),
        *_of_images(_with(_BASELINES[:2], "--config.dataset=mnist")),
    ],
    "Digits": [
        Row("this project's own", "configs/digits.py"),
        Row("this project's own, labels not spread", "configs/digits.py:alone"),
        *_seven("digits_table", published=False),
        *_of_images(_BASELINES),
    ],
    "Vectors": [
        Row("breast cancer, 30 features", "configs/vectors.py"),
        *_with(_BASELINES, "--config.dataset=breast_cancer --config.num_labelled=20"),
    ],
    "Toys": [Row("moons", "configs/moons.py"), Row("circles", "configs/circles.py")],
}


def collect(run: Path) -> dict[str, Any]:
    """One run's record for the table.

    Args:
      run: a run folder, finished or not.

    Returns:
      A small dict of plain values. A run without ``summary.json`` has the status
      ``unfinished``, and the error and step of its last evaluation.

    Raises:
      ValueError: where the folder holds no run, but an exported model, say.
    """
    settings = read_settings(run)
    if (run / WEIGHTS).exists():
        raise ValueError(
            f"{run}: expected a run folder, got an exported model, which has no result"
        )
    record = read_json(run / "summary.json")
    if not record:
        evaluated = [r for r in read_metrics(run) if r["split"] == "test"]
        last = evaluated[-1] if evaluated else {}
        record = {
            "status": "unfinished",
            "dataset": settings.config.get("dataset"),
            "config": settings.config,
            "seed": settings.config.get("seed"),
            "steps": last.get("step", 0),
            "test_error_percent": last.get("error_percent"),
            "bits_per_dim": last.get("bits_per_dim"),
        }
    return {**record, "command": settings.command}


def record_name(record: Mapping[str, Any]) -> str:
    """A file name for a record, from its command and seed; of a long one the start and a digest."""
    words = [word.lstrip("-").removeprefix("config=configs/") for word in _words(record)[2:]]
    words = [word for word in words if not word.startswith("config.seed")]
    name = re.sub(r"[^A-Za-z0-9_]+", "-", "-".join(words))
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]}-{_digest(name)}"
    return f"{name}-seed{record['seed']}.json"


def _words(record: Mapping[str, Any]) -> list[str]:
    return shlex.split(record["command"])


def save_records(runs: Iterable[Path], folder: Path) -> None:
    """Copies the records of run folders into a folder of small JSON files.

    Args:
      runs: run folders.
      folder: of the records; one of the same command and seed is replaced.

    Raises:
      ValueError: for a folder that holds no run, or one that was not trained by a command, and
        where the records cannot be written.
    """
    records = []
    for run in runs:
        record = collect(run)
        if not record["command"]:
            raise ValueError(f"{run}: expected a run of train.py, found no command in config.json")
        _check(record, run, "train it again")
        records.append(record)
    made(folder, "records")
    for record in records:
        write_json(_free_path(folder / record_name(record), record), record)


def _free_path(path: Path, record: Mapping[str, Any]) -> Path:
    """The path; with a digest of the command where the record of another command has this name."""
    there, command = read_json(path), _base_command(record)
    if "command" not in there or _base_command(there) == command:
        return path
    return path.with_stem(f"{path.stem}-{_digest(command)}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _check(record: Mapping[str, Any], path: Path, remedy: str) -> None:
    """Raises ValueError where a record lacks something that its line needs."""
    try:
        _line(Row("", ""), [record])
        record_name(record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: expected a run's record, got a damaged one ({error!r}); {remedy}"
        ) from None


def _base_command(record: Mapping[str, Any]) -> str:
    """The command without its seeds: what the runs of one row share."""
    words = [w for w in _words(record) if not re.match(r"--?config\.(label_)?seed(=|$)", w)]
    return shlex.join(words)


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def _notes(record: Mapping[str, Any]) -> str:
    config, notes = record["config"], []
    objective = config.get("objective", {})
    if objective.get("name") == "em":
        period, start = objective["refresh_every"], objective.get("refresh_from", 0)
        every = "every step" if period == 1 else f"every {period} steps"
        notes.append(f"E-step {every}" if not start else f"E-step every step, from {start} {every}")
    if config.get("posterior_at") == "middle":
        notes.append("classified in the middle of grey levels")
    if record.get("evaluated_on") == "validation":
        notes.append("on held-out train objects")
    if config.get("num_labelled"):
        notes.append(f"{config['num_labelled']} labels")
    if config.get("label_file"):
        notes.append(f"and those of `{config['label_file']}`")
    run, spread = config.get("pseudo_labels"), config.get("pseudo_label_spreading")
    if run or spread:
        by = f"`{run.replace('{workdir}/', ':')}`" if run else "spreading"
        share = f"{config['pseudo_label_share']:.0%} of the others"
        after = ", spread over neighbours" if run and spread else ""
        notes.append(f"and those that {by} gives {share}{after}")
    return ", ".join(notes)


def _line(row: Row, records: Sequence[Mapping[str, Any]]) -> str:
    finished = [r for r in records if r["status"] == "finished"]
    failed = [r for r in records if r["status"] == "diverged"]
    unfinished = [r for r in records if r["status"] == "unfinished"]
    published = [row.paper_error, row.paper_bits]
    if not records:
        cells = [row.label, "not run", "-", *published, "0", "0", "-", "-", ""]
        return markdown.row([*cells, f"`python train.py --config={row.config}`"])
    errors = [r["test_error_percent"] for r in finished]
    bits = [r["bits_per_dim"] for r in finished if r["bits_per_dim"] is not None]
    notes = [_notes(records[0])]
    if lost := [str(r["seed"]) for r in finished if bits and r["bits_per_dim"] is None]:
        notes.append(f"bits/dim of {', '.join(lost)} not finite")
    for record in unfinished:
        reached = record["test_error_percent"]
        so_far = "not evaluated yet" if reached is None else f"{reached:.2f}% so far"
        wanted = record["config"].get("steps")  # a baseline has none
        at = f" at step {record['steps']:,} of {wanted:,}" if wanted else ""
        notes.append(f"seed {record['seed']} stopped{at}, {so_far}")
    if len(errors) > 1:
        notes.append("each: " + ", ".join(f"{error:.2f}" for error in errors))
    seeds = ", ".join(str(r["seed"]) for r in finished)
    devices = {trained_on(r) for r in finished}
    seconds = [r["train_seconds"] for r in finished]
    return markdown.row(
        [
            row.label,
            _spread(errors, 2),
            _spread(bits, 3),
            *published,
            f"{len(finished)} ({seeds})" if finished else "0",
            str(len(failed)),
            _minutes(float(np.mean(seconds))) if seconds else "-",
            "; ".join(sorted(devices)) or "-",
            "; ".join(note for note in notes if note),
            f"`{_base_command(records[0])}`",
        ]
    )


def trained_on(record: Mapping[str, Any]) -> str:
    """The devices that trained a run, and the cores that it might use."""
    cores = record["cpu_count"]
    return f"{record['device']}, {cores} core{'' if cores == 1 else 's'}"


_HEADER = (
    "model", "test error, %", "bits/dim", "paper: error, %", "paper: bits/dim", "seeds", "diverged",
    "training", "device", "notes", "command",
)  # fmt: skip


def render(records: Iterable[Mapping[str, Any]]) -> str:
    """The whole page as Markdown.

    Args:
      records: from :func:`collect`.

    Returns:
      One table a section, with every known row, run or not, and every other command.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in sorted(records, key=lambda r: (r["command"], r["seed"])):
        groups.setdefault(_base_command(record), []).append(record)
    lines = [
        "# Results",
        "",
        "Written by `python -m scnf_jax table` from the records in `docs/results/`, one small",
        "JSON file a run. Mean ± standard deviation over seeds; a seed decides which labels stay,",
        "and all randomness of training: add `--config.seed=K` to the command. Bits/dim are exact,",
        "on unaugmented test objects: those of images at one draw of the dequantisation noise, at",
        "which errors are, too, unless notes say otherwise; those of vectors and points are",
        "-log2 p(x) / D of their features as given, a differential entropy, which may be negative",
        "and compares with that of no other data. The columns headed *paper* are what Atanov et",
        "al. published for MNIST, not measured here; M1+M2 has a bound on re-binarised pixels, no",
        "density. Where notes name a folder or file in `runs/`, it has to be there first, by the",
        "commands of the README and of EXPERIMENTS.md; where they name `:MODE`, the command trains",
        "that mode of its config file first. The time of that is not counted, nor is that of",
        "spreading labels. Cores are those that a run might use; older records have those of the",
        "machine, of which `mnist.py:small` used one.",
    ]
    for title, rows in SECTIONS.items():
        lines += ["", f"## {title}", "", markdown.row(_HEADER), "|" + "---|" * len(_HEADER)]
        for row in rows:
            lines.append(_line(row, groups.pop(f"python train.py --config={row.config}", [])))
    if groups:
        lines += ["", "## Other settings", "", markdown.row(_HEADER), "|" + "---|" * len(_HEADER)]
        lines += [_line(Row("-", ""), group) for group in groups.values()]
    return "\n".join(lines) + "\n"


def write_table(folder: Path, path: Path) -> int:
    """Writes the page from a folder of records.

    Args:
      folder: of the records.
      path: of the Markdown file.

    Returns:
      How many records there were.

    Raises:
      ValueError: where the folder holds none, or a damaged one, or the page cannot be written.
    """
    records = []
    for file in sorted(folder.glob("*.json")):
        record = read_json(file)
        _check(record, file, "write it again with python -m scnf_jax table RUN")
        records.append(record)
    if not records:
        raise ValueError(
            f"{folder}: expected records of runs, found none; name run folders, as in "
            "python -m scnf_jax table runs/digits-0"
        )
    made(path.parent, "output")
    write_text(path, render(records))
    return len(records)

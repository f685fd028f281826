"""``report.html``: everything about a run in one page that opens without a network."""

import base64
import contextlib
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from scnf_jax.analysis.obfuscation import MIN_OBJECTS, measure_leak
from scnf_jax.analysis.relabelling import relabelling_acceptance
from scnf_jax.data import Dataset
from scnf_jax.folders import read_json, write_json, write_text
from scnf_jax.inference import Engine
from scnf_jax.reporting.card import describe, num_labelled, results
from scnf_jax.reporting.evaluation import evaluation_record, plot_evaluation
from scnf_jax.reporting.markdown import table, to_html
from scnf_jax.reporting.studies import (
    acceptance_text,
    draw_figures,
    leak_record,
    leak_table,
    outlier_study,
    outlier_table,
)

_STYLE = """
:root { color-scheme: light dark; --line: #d5d5d5; --soft: #f4f4f4; --link: #0b57d0; }
@media (prefers-color-scheme: dark) {
  :root { --line: #444; --soft: #222; --link: #8ab4f8; }
  body { background: #161616; color: #e6e6e6; }
  img { filter: brightness(.92); }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
nav a { margin-right: 1rem; color: var(--link); white-space: nowrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
td:first-child { overflow-wrap: normal; } code { overflow-wrap: anywhere; }
.numbers { display: flex; flex-wrap: wrap; gap: .8rem; }
.numbers div { background: var(--soft); border-radius: .5rem; padding: .7rem 1rem; }
.numbers b { display: block; font-size: 1.5rem; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; border-radius: .3rem; }
figcaption { font-size: .9rem; }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; border-radius: .3rem; }
"""


def write_report(engine: Engine, dataset: Dataset, max_objects: int) -> Path:
    """Evaluates a run, studies it, draws it, and writes ``report.html`` into its folder.

    Beside the page are the records and the figures that it shows: ``evaluation.json``,
    ``leak.json``, ``relabelling.json``, ``outliers.json``, and PNG files. Of a model without a
    density there are the classes and the curves; one of a single class has no leak or relabelling.

    Args:
      engine: of the model.
      dataset: that it was trained on.
      max_objects: objects of probes, embeddings and outliers, each.

    Returns:
      Path of the page.

    Raises:
      OSError: where the folder cannot be written.
    """
    folder = engine.run.folder
    scores = engine.scores(dataset.test_x)
    evaluation = evaluation_record(engine, engine.run.test_name, scores, dataset.test_y)
    figures = plot_evaluation(folder, scores, dataset.test_y)
    write_json(folder / "evaluation.json", evaluation)
    parts = [_section("Classes", _pictures(folder, dict(zip(figures, _CAPTIONS, strict=True))))]
    leak: dict[str, Any] | None = None
    if engine.has_density:
        leak = _leak(engine, dataset, max_objects)
        told = _NO_LEAK if leak is None else leak_table(leak)
        parts.append(_section("What z_h still tells of the class", to_html(told)))
        if dataset.num_levels is not None:
            parts += _of_images(engine, dataset, max_objects)
    captions = draw_figures(folder, engine, dataset, max_objects)
    if (folder / "density.png").exists():
        captions["density.png"] = "Density p(x), the labelled points and the decision boundary."
    parts.append(_section("Figures", _pictures(folder, captions)))
    summary = read_json(folder / "summary.json")
    page = _page(engine, summary, evaluation, leak, parts)
    path = folder / "report.html"
    write_text(path, page)
    return path


def _leak(engine: Engine, dataset: Dataset, max_objects: int) -> dict[str, Any] | None:
    """Measures what latents tell of the class; None where there are too few objects or classes."""
    few = min((dataset.train_y >= 0).sum(), len(dataset.test_y)) < MIN_OBJECTS
    if few or engine.run.num_classes < 2:
        return None
    leak = leak_record(measure_leak(engine, dataset, max_objects, max_objects))
    write_json(engine.run.folder / "leak.json", leak)
    return leak


def _of_images(engine: Engine, dataset: Dataset, max_objects: int) -> list[str]:
    """The sections that a flow of images has beside."""
    folder, parts = engine.run.folder, []
    if engine.run.num_classes > 1:
        accepted = relabelling_acceptance(engine, dataset, min(max_objects, 500))._asdict()
        write_json(folder / "relabelling.json", accepted)
        parts.append(_section("Relabelling", to_html(acceptance_text(accepted))))
    outliers = outlier_study(engine, dataset, {}, max_objects, folder)
    write_json(folder / "outliers.json", outliers)
    drawn = _pictures(folder, {"densities.png": "Density of the test set and of others."})
    return [*parts, _section("Outliers", to_html(outlier_table(outliers)) + drawn)]


_NO_LEAK = (
    f"Not measured: the probes need two classes, and {MIN_OBJECTS} train and test objects with a "
    "known label."
)
_CAPTIONS = (
    "Confidence against accuracy: bars below the line are too sure of themselves.",
    "Test objects by true and predicted class.",
    "Error on the objects that the model is surest of.",
)


def _page(
    engine: Engine,
    summary: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    leak: Mapping[str, Any] | None,
    parts: Sequence[str],
) -> str:
    run = engine.run
    name = f"{run.options.dataset}, {num_labelled(run, summary)} labels"
    numbers = {f"{run.test_name} error": f"{evaluation['error_percent']:.2f}%"}
    if engine.has_density:
        numbers["bits/dim"] = f"{evaluation['bits_per_dim']:.3f}"
    numbers["calibration error"] = f"{evaluation['ece_percent']:.2f}%"
    if leak is not None:
        best = max(p["accuracy_percent"] for p in leak["probes"]["z_h, true label"].values())
        numbers[f"best probe on z_h (chance {leak['chance_percent']:.0f}%)"] = f"{best:.1f}%"
    tiles = "".join(f"<div><b>{escape(v)}</b>{escape(k)}</div>" for k, v in numbers.items())
    trained = {k: v for k, v in describe(run, summary).items() if v}
    measured = results(run, evaluation)
    body = [
        f"<h1>{escape(name)}</h1>",
        f'<div class="numbers">{tiles}</div>',
        _section("Trained", table(trained.items())),
        _section("Results", table(measured.items()) + _baselines(engine, summary)),
        *parts,
        _section("Reproduce", _commands(engine, leak is not None)),
    ]
    links = [part.split('id="')[1].split('"')[0] for part in body if part.startswith("<section")]
    nav = " ".join(f'<a href="#{link}">{link.replace("-", " ")}</a>' for link in links)
    body.insert(2, f"<nav>{nav}</nav>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(name)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _section(title: str, content: str) -> str:
    anchor = "".join(c if c.isalnum() else "-" for c in title)
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>\n{content}</section>'


def _pictures(folder: Path, captions: Mapping[str, str]) -> str:
    parts = []
    for name, caption in captions.items():
        data = base64.b64encode((folder / name).read_bytes()).decode()
        parts.append(
            f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    return "".join(parts)


def _baselines(engine: Engine, summary: Mapping[str, Any]) -> str:
    """Classifiers on the same label draw, from the run folders beside this one."""
    same = ("dataset", "num_labelled", "label_seed", "label_file", "evaluated_on")
    options, rows = engine.run.options, []
    for path in sorted(engine.run.folder.parent.glob("*/summary.json")):
        with contextlib.suppress(ValueError, KeyError, TypeError):  # of a stranger's file
            other = read_json(path)
            name = other["config"]["baseline"]["name"].replace("_", " ")
            if other["config"].get("features") == "gradients":
                name += ", histograms of gradients"
            if other["config"]["validation_size"] == options.validation_size and all(
                other.get(key) == summary.get(key) for key in same
            ):
                rows.append((name, f"{other['test_error_percent']:.2f}%", "-"))
    if not rows:
        settings = {
            "dataset": options.dataset,
            "num_labelled": options.num_labelled,
            "label_seed": options.resolved_label_seed,
            "validation_size": options.validation_size or None,
            "label_file": options.resolved_label_file,
        }
        given = [f"--config.{key}={value}" for key, value in settings.items() if value is not None]
        config = "--config=configs/baselines.py:label_spreading"
        command = shlex.join(["python", "train.py", config, *given])
        return (
            "<p>No baseline on the same labels lies beside this run. To have them here, run "
            f"<code>{escape(command)}</code> with a <code>--workdir</code> beside this folder.</p>"
        )
    return "<h3>Baselines on the same labels</h3>" + table(rows, ("method", "error", "bits/dim"))


def _commands(engine: Engine, leaks: bool) -> str:
    """The commands that give what is on the page, those alone that the run has something for."""
    run = engine.run
    name = shlex.quote(run.folder.name)
    lines = [f"{run.command} --workdir={name}"] if run.command else []
    shown = {
        "evaluate": True,
        "leak": leaks,
        "outliers": engine.has_density and run.num_levels is not None,
        "figures": engine.has_density,
        "report": True,
    }
    lines += [f"python -m scnf_jax {verb} {name}" for verb in shown if shown[verb]]
    return f"<pre>{escape(chr(10).join(lines))}</pre>"

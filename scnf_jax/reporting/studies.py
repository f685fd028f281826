"""Studies of a trained model: leak, outliers, figures; as records, tables and pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scnf_jax.analysis.embedding import EMBEDDINGS, embed
from scnf_jax.analysis.obfuscation import REPRESENTATIONS, Leak, flat
from scnf_jax.analysis.outliers import CORRUPTIONS, SCORES, auroc, corrupt, outlier_scores
from scnf_jax.data import Dataset, TrainObjects, at_most, take
from scnf_jax.inference import Engine
from scnf_jax.reporting.charts import plot_embeddings, plot_log_probs
from scnf_jax.reporting.figures import plot_curves
from scnf_jax.reporting.gallery import plot_gallery
from scnf_jax.reporting.log import read_metrics
from scnf_jax.reporting.markdown import row
from scnf_jax.reporting.pictures import drawable

_OWN = "test set"


def leak_record(leak: Leak) -> dict[str, Any]:
    """A leak as plain values; see :class:`~scnf_jax.analysis.obfuscation.Leak`."""
    probes = {
        name: {probe: result._asdict() for probe, result in results.items()}
        for name, results in leak.probes.items()
    }
    return {**leak._asdict(), "probes": probes, "meaning": dict(REPRESENTATIONS)}


def leak_table(record: Mapping[str, Any]) -> str:
    """A leak's record as a table in Markdown, with what each column means."""
    names = list(record["probes"])
    lines = [
        f"Accuracy of probes for the class, % (95% interval); {record['num_train']} objects to "
        f"learn from, {record['num_test']} others to test on.",
        f"Chance, always the most frequent class: {record['chance_percent']:.1f}%. The model's own "
        f"posterior, given z_f: {record['model_accuracy_percent']:.1f}%.",
        "",
        row(["probe", *names]),
        "|" + "---|" * (len(names) + 1),
    ]
    for probe in next(iter(record["probes"].values())):
        cells = [record["probes"][name][probe] for name in names]
        shown = [
            f"{c['accuracy_percent']:.1f} ({c['low_percent']:.1f}-{c['high_percent']:.1f})"
            for c in cells
        ]
        lines.append(row([probe.replace("_", " "), *shown]))
    bits = [max(c["information_bits"] for c in record["probes"][name].values()) for name in names]
    lines.append(row(["information, at least, bits", *(f"{b:.2f}" for b in bits)]))
    lines += [
        "",
        f"Of the class's {record['entropy_bits']:.2f} bits the model's own p(y|x) proves at least "
        f"{record['posterior_bits']:.2f} in z_f; under the model z_h has none.",
        "",
    ]
    lines += [f"- {name}: {meaning}." for name, meaning in record["meaning"].items()]
    return "\n".join(lines)


def acceptance_text(record: Mapping[str, Any]) -> str:
    """What came of :func:`~scnf_jax.analysis.relabelling.relabelling_acceptance`, in words."""
    lowest = min(range(len(record["by_label"])), key=lambda k: record["by_label"][k])
    return (
        f"A support vector machine that knows real objects alone, right on "
        f"{record['judge_accuracy_percent']:.1f}% of them, takes "
        f"{record['accepted_percent']:.1f}% ({record['low_percent']:.1f}-"
        f"{record['high_percent']:.1f}) of relabelled test objects for their new class; fewest as "
        f"{lowest}: {record['by_label'][lowest]:.1f}%. {record['num_objects']} objects, each under "
        "every label but its own."
    )


def outlier_study(
    engine: Engine,
    dataset: Dataset,
    others: Mapping[str, np.ndarray],
    max_test: int,
    folder: Path,
) -> dict[str, Any]:
    """AUROC of three scores between test objects and foreign ones.

    Args:
      engine: of a model with a density.
      dataset: that it was trained on.
      others: foreign objects as stored, by name; corruptions of the test objects are
        added for images.
      max_test: objects of each set, drawn.
      folder: ``densities.png`` is drawn there.

    Returns:
      ``auroc`` by set and by score, ``num_objects`` by set, mean ``bits_per_dim`` by set.

    Raises:
      ValueError: where a set has the name of the test set or of its corruptions.
    """
    for name in others:
        if name.startswith(_OWN):
            raise ValueError(f"other: expected another name than {_OWN!r}, got {name!r}; rename it")

    def some(x: TrainObjects) -> np.ndarray:
        return take(x, at_most(max_test, np.arange(x.shape[0])))

    test = some(dataset.test_x)
    sets = {name: some(x) for name, x in others.items()}
    if dataset.num_levels is not None:
        square = test.shape[1] == test.shape[2]
        for name in CORRUPTIONS:
            if square or name != "rotation":
                sets[f"{_OWN}, {name}"] = corrupt(test, name, dataset.num_levels)
    train_log_prob = np.asarray(engine.scores(some(dataset.train_x)).log_prob)
    scored = {_OWN: engine.scores(test)} | {k: engine.scores(x) for k, x in sets.items()}
    inside = outlier_scores(scored[_OWN], train_log_prob)
    table = {}
    for name in sets:
        outside = outlier_scores(scored[name], train_log_prob)
        table[name] = {score: auroc(inside[score], outside[score]) for score in SCORES}
    bits = {name: np.asarray(scores.bits_per_dim) for name, scores in scored.items()}
    unit = "-log p(x), bits/dim" + ("" if dataset.num_levels is not None else " (differential)")
    plot_log_probs(folder / "densities.png", bits, unit)
    return {
        "auroc": table,
        "num_objects": {name: len(scores.label) for name, scores in scored.items()},
        "bits_per_dim": {name: _finite_mean(values) for name, values in bits.items()},
    }


def _finite_mean(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.mean(finite)) if len(finite) else None


def outlier_table(record: Mapping[str, Any]) -> str:
    """An outlier study's record as a table in Markdown."""
    heads = ["foreign objects", "-log p(x)", "|log p(x) - mean|", "posterior's entropy", "bits/dim"]
    own = record["bits_per_dim"][_OWN]
    lines = [
        "AUROC: 1 tells every foreign object from the test set, 0.5 is chance, below 0.5 foreign "
        "objects look more usual than the model's own.",
        f"Mean of the test set: {_bits(own)} bits/dim.",
        "",
        row(heads),
        "|" + "---|" * len(heads),
    ]
    for name, values in record["auroc"].items():
        bits = _bits(record["bits_per_dim"][name])
        lines.append(row([name, *(f"{values[score]:.3f}" for score in SCORES), bits]))
    return "\n".join(lines)


def _bits(bits: float | None) -> str:
    return "not finite" if bits is None else f"{bits:.3f}"


def draw_figures(folder: Path, engine: Engine, dataset: Dataset, max_test: int) -> dict[str, str]:
    """Draws curves and, of a flow, embeddings of the latents and, of images, the gallery.

    Args:
      folder: of the PNG files.
      engine: of the model.
      dataset: that it was trained on.
      max_test: test objects that are embedded, drawn.

    Returns:
      Captions by file name.
    """
    captions = {}
    records = read_metrics(engine.run.folder)
    if records:
        plot_curves(folder / "curves.png", records, dataset.num_levels is not None)
        measure = "Negative log-likelihood" if engine.has_density else "Loss"
        captions["curves.png"] = f"{measure} and test error during training."
    if not engine.has_density:
        return captions
    rows = at_most(max_test, np.arange(len(dataset.test_y)))
    x, y = dataset.test_x[rows], dataset.test_y[rows]
    latents = engine.encode(x, y)
    parts = {
        "z_f: carries the class": flat(latents.z_f),
        "z_h of the true label": flat(latents.z_h),
    }
    for method in EMBEDDINGS if len(x) > 1 else ():
        name = f"latents-{method.lower()}.png"
        points = {title: embed(z, method) for title, z in parts.items()}
        plot_embeddings(folder / name, points, y, method)
        captions[name] = (
            f"{method} of {len(x)} test objects: classes part in z_f, and mix in z_h as far as "
            "the model takes the class out."
        )
    if drawable(dataset.event_shape, dataset.num_levels):
        captions |= plot_gallery(folder, engine, dataset.test_x, dataset.test_y)
    return captions

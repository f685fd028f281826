"""The card of an exported model: what it is, what was measured, how to use it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from scnf_jax.loading import LoadedRun
from scnf_jax.models import Classifier, StackedVAE
from scnf_jax.scnf import SemiConditionalFlow
from scnf_jax.settings import RunOptions

_MAX_CLASSES = 20  # whose p(y) is listed

_FLOW: tuple[str, ...] = (
    "# Semi-conditional normalizing flow",
    "",
    "A classifier p(y|x), a density p(x) and a sampler p(x|y), all exact and in one model",
    "(Atanov et al. 2019, https://arxiv.org/abs/1905.00505).",
)
_FLOW_LIMITS = (
    "- log p(x) of a flow is a poor outlier score by itself (`python -m scnf_jax outliers`).",
    "- z_h hides the class as far as `python -m scnf_jax leak` says, and z_aux is not hidden.",
)
_CLASSIFIER = (
    "# Classifier, trained by consistency",
    "",
    "p(y|x) of images, from a few labels and agreement between random views; it has no density.",
)
_STACKED = (
    "# Stacked variational autoencoders, M1+M2",
    "",
    "A classifier q(y|x), trained with a bound on the likelihood; it has no density",
    "(Kingma et al. 2014, https://arxiv.org/abs/1406.5298).",
)


def num_labelled(run: LoadedRun, summary: Mapping[str, Any]) -> int | str:
    """How many labels a run saw; without its summary the number that was asked for, or ``all``."""
    return summary.get("num_labelled", run.options.num_labelled or "all")


def describe(run: LoadedRun, summary: Mapping[str, Any]) -> dict[str, str]:
    """What was trained, for a person: captions and values.

    Args:
      run: the trained model.
      summary: of the run, perhaps empty.

    Returns:
      Values by caption.
    """
    options = run.options
    pseudo = summary.get("num_pseudo_labelled", 0)
    rows = {
        "data": f"{options.dataset}, objects {list(run.event_shape)}, {run.num_classes} classes, "
        f"{num_labelled(run, summary)} labels, label seed {options.resolved_label_seed}"
        + (f", those in {options.label_file} among them" if options.label_file else "")
        + (f"; {pseudo:,} {_given_by(options)}" if pseudo else ""),
        "model": ", ".join(f"{key} {value}" for key, value in options.model.items()),
        "objective": _changed(options.objective),
        "optimiser": _changed(options.optimizer),
        "views": _changed(options.augment) or "none",
        "trained": f"{run.step:,} steps of {options.batch_size}, seed {options.seed}",
    }
    if probs := _unequal_class_probs(run):
        rows["p(y)"] = probs
    if "parameters" in summary:
        rows["parameters"] = f"{summary['parameters']:,}"
    if "train_seconds" in summary:
        rows["time"] = f"{summary['train_seconds'] / 60:.1f} min of training on {summary['device']}"
    if "versions" in summary:
        rows["versions"] = ", ".join(f"{k} {v}" for k, v in summary["versions"].items())
    return rows


def _given_by(options: RunOptions) -> str:
    if not options.pseudo_labels:
        return "spread from them"
    return "that a run before it gave" + (", spread" if options.pseudo_label_spreading else "")


def _unequal_class_probs(run: LoadedRun) -> str:
    """p(y) of the first classes, unless it is that of classes that are equally frequent."""
    if not isinstance(run.model, SemiConditionalFlow):
        return ""
    probs = np.exp(run.model.log_class_probs(run.params))
    if np.ptp(probs) < 1e-6:
        return ""
    listed = [f"{prob:.3f}" for prob in probs[:_MAX_CLASSES]]
    return ", ".join(listed) + ", ..." * (len(probs) > _MAX_CLASSES)


def _changed(options: Any) -> str:
    """Settings that are not at their defaults."""
    default = type(options)()
    names = vars(options)
    return ", ".join(
        f"{name} {value}" for name, value in names.items() if value != getattr(default, name)
    )


def results(run: LoadedRun, evaluation: Mapping[str, Any]) -> dict[str, str]:
    """What was measured, for a person.

    Args:
      run: the trained model.
      evaluation: of the run; see :func:`~scnf_jax.reporting.evaluation.evaluate_scores`.

    Returns:
      Values by caption.
    """
    rows = {f"{run.test_name} error": f"{evaluation['error_percent']:.2f}%"}
    if "bits_per_dim" in evaluation:
        rows["bits/dim"] = f"{evaluation['bits_per_dim']:.3f}, exact"
        rows["log p(x)"] = f"{evaluation['log_prob_nats']:.1f} nats an object"
        if run.num_levels is not None:
            rows["dequantisation noise"] = "one draw"
    if run.options.posterior_at == "middle":
        rows["classified at"] = "the middle of grey levels, without noise"
    rows["calibration error (ECE)"] = f"{evaluation['ece_percent']:.2f}%"
    at = evaluation["error_percent_at_coverage"]
    rows["error where it may abstain"] = ", ".join(
        f"{at[share]:.2f}% on the surest {share}%" for share in ("50", "90", "99")
    )
    rows["objects"] = str(evaluation["num_objects"])
    return rows


def _input(run: LoadedRun) -> str:
    """What the model takes: type, values, shape."""
    scale = ""
    if run.num_levels is not None and isinstance(run.model, StackedVAE):
        scale = f" grey level / {run.num_levels - 1}"
    elif run.num_levels is not None:
        added = "0.5" if run.options.posterior_at == "middle" else "uniform noise"
        scale = f" (grey level + {added}) / {run.num_levels}"
    return f"x float32{scale}, {['N', *run.event_shape]}"


def model_card(
    run: LoadedRun, summary: Mapping[str, Any], evaluation: Mapping[str, Any] | None
) -> str:
    """The text of an exported model's ``README.md``.

    Args:
      run: the trained model.
      summary: of the run, perhaps empty.
      evaluation: of the run; None where it was not evaluated.

    Returns:
      Markdown.
    """
    measured = results(run, evaluation) if evaluation else {}
    is_flow = isinstance(run.model, SemiConditionalFlow)
    if is_flow:
        tag, about = "normalizing-flow, density-estimation", _FLOW
    elif isinstance(run.model, Classifier):
        tag, about = "image-classification", _CLASSIFIER
    else:
        tag, about = "vae", _STACKED
    lines = [
        "---",
        "library_name: scnf_jax",
        "license: apache-2.0",
        f"tags: [{tag}, semi-supervised, jax]",
        "---",
        "",
        *about,
        "",
        f"Trained on {run.options.dataset}.",
        "",
        "## Measured",
        "",
        *([f"- {name}: {value}" for name, value in measured.items()] or ["Not evaluated."]),
        "",
        "## Trained",
        "",
        *(f"- {name}: {value}" for name, value in describe(run, summary).items() if value),
        "",
    ]
    if run.command:
        lines += ["```bash", run.command, "```", ""]
    lines += [
        "## Use",
        "",
        "```python",
        "import jax, scnf_jax",
        "",
        'run = scnf_jax.load_run("THIS FOLDER")',
        f"jax.jit(run.model.log_posterior)(run.params, x)  # {_input(run)}",
        "```",
        "",
        "`model.safetensors` holds arrays alone and `config.json` plain settings: no code in this",
        "folder is executed.",
        "",
        "## Limits",
        "",
        "- It knows the classes it was trained on. What is none of them is given one all the same.",
        *(_FLOW_LIMITS if is_flow else ()),
        "",
    ]
    return "\n".join(lines)

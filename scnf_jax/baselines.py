"""Scikit-learn's classifiers on this project's splits and label draws, for comparison."""

import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scnf_jax.data import TrainObjects, load_dataset, take
from scnf_jax.folders import Settings, check_same_run, claimed, write_json, write_settings
from scnf_jax.labels import given_answers, keep_answers, seen_labels
from scnf_jax.options import check_choice, from_mapping, suggest
from scnf_jax.parallel import usable_cores
from scnf_jax.settings import LabelOptions
from scnf_jax.spreading import histograms


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaselineOptions(LabelOptions):
    """Settings of a baseline, beside those of its data and labels.

    Attributes:
      baseline: ``name``, one of ``supervised_svc``, ``label_spreading`` and
        ``self_training_svc``, and the classifier's settings.
      features: what objects are told apart by: ``values``, grey levels from 0 to 1 or vectors as
        they are, or ``gradients``, see :func:`~scnf_jax.spreading.gradient_histograms`.
    """

    baseline: dict[str, Any]
    features: str = "values"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("features", self.features, ("values", "gradients"))


def _supervised_svc(seed: int, **settings: Any) -> Any:
    from sklearn.svm import SVC

    return SVC(random_state=seed, **settings)


def _label_spreading(seed: int, **settings: Any) -> Any:
    from sklearn.semi_supervised import LabelSpreading

    del seed
    return LabelSpreading(**settings)


def _self_training_svc(seed: int, threshold: float = 0.75, **settings: Any) -> Any:
    from sklearn.semi_supervised import SelfTrainingClassifier

    return SelfTrainingClassifier(
        _supervised_svc(seed, probability=True, **settings), threshold=threshold
    )


METHODS: dict[str, Callable[..., Any]] = {
    "supervised_svc": _supervised_svc,
    "label_spreading": _label_spreading,
    "self_training_svc": _self_training_svc,
}


def run_baseline(
    config: Mapping[str, Any], folder: str | os.PathLike[str], command: str = ""
) -> dict[str, Any]:
    """Fits a baseline and writes ``config.json`` and ``summary.json`` as a trained run does.

    Args:
      config: see :class:`BaselineOptions`.
      folder: of the run; made where it is not there.
      command: that makes this run, for its records.

    Returns:
      What ``summary.json`` holds.

    Raises:
      ValueError: for bad settings or data, or a folder that holds a run of another config or
        on other data.
      OSError: where its files cannot be saved, as on a full disk.
    """
    options = from_mapping(BaselineOptions, config, "")
    plain = dataclasses.asdict(options)
    path = Path(folder).expanduser().absolute()
    check_same_run(path, plain, _with_defaults)
    settings = dict(options.baseline)
    name = settings.pop("name", None)
    if name not in METHODS:
        raise ValueError(f"baseline.name: no method {name!r}; {suggest(str(name), METHODS)}")
    try:
        classifier = METHODS[name](options.seed, **settings)
    except TypeError as error:
        raise ValueError(f"baseline: {error}") from None
    dataset = load_dataset(options.dataset, options.validation_size)
    answers = given_answers(options, dataset, path)
    labels = seen_labels(options, dataset, answers)
    known = labels >= 0 if name == "supervised_svc" else np.ones(len(labels), bool)
    start = time.perf_counter()
    train_x, test_x = (
        _features(x, dataset.num_levels, options) for x in (dataset.train_x, dataset.test_x)
    )
    # Objects that no label reaches have 0 / 0; scikit-learn takes them for the first class.
    with claimed(path), warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", FutureWarning)
        data = dataset.description
        before = check_same_run(path, plain, _with_defaults, data)
        classifier.fit(train_x[known], labels[known])  # first: scikit-learn checks settings here
        write_settings(path, Settings(plain, data, command or before))
        keep_answers(path, answers)
        summary = {
            "status": "finished",
            "dataset": options.dataset,
            "command": command,
            "config": plain,
            "num_labelled": int((labels >= 0).sum()),
            "seed": options.seed,
            "label_seed": options.resolved_label_seed,
            "label_file": options.resolved_label_file,
            "evaluated_on": "validation" if options.validation_size else "test",
            "test_error_percent": float(
                100.0 * np.mean(classifier.predict(test_x) != dataset.test_y)
            ),
            "bits_per_dim": None,
            "train_seconds": round(time.perf_counter() - start, 1),
            "device": "cpu",
            "cpu_count": usable_cores(),
        }
        write_json(path / "summary.json", summary)
    return summary


def _with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    return dataclasses.asdict(from_mapping(BaselineOptions, config, ""))


def _features(x: TrainObjects, num_levels: int | None, options: BaselineOptions) -> np.ndarray:
    """``[N, D]`` of objects as stored, by the setting of that name."""
    if options.features == "values":
        return take(x, slice(None)).reshape(x.shape[0], -1) / ((num_levels or 2) - 1)
    if num_levels is None:
        raise ValueError(
            f"features: expected 'values' for vectors, as {options.dataset} has, got 'gradients'"
        )
    return histograms(x, num_levels)

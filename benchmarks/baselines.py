"""Semi-supervised baselines of scikit-learn on this project's splits and label draws.

    python benchmarks/baselines.py --dataset=digits --num_labelled=100 --label_seeds 0 1 2 3 4

Settings are scikit-learn's defaults but for the kernels, which are chosen once on
held-out train images (``--validation_size=300``), never on the test set.
"""

import argparse
import warnings
from collections.abc import Callable

import numpy as np
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier
from sklearn.svm import SVC

from scnf_jax.data import load_dataset, mask_labels

METHODS: dict[str, Callable[[], object]] = {
    "supervised SVC": lambda: SVC(gamma="scale", C=10.0),
    "label spreading": lambda: LabelSpreading(
        kernel="knn", n_neighbors=10, alpha=0.2, max_iter=100
    ),
    "self-training SVC": lambda: SelfTrainingClassifier(
        SVC(gamma="scale", C=10.0, probability=True, random_state=0), threshold=0.6
    ),
}


def main() -> None:
    """Prints one row a method: the test error of every draw, mean and standard deviation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--num_labelled", type=int, default=100)
    parser.add_argument("--label_seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--validation_size", type=int, default=0)
    arguments = parser.parse_args()
    dataset = load_dataset(arguments.dataset, arguments.validation_size)
    scale = (dataset.num_levels or 2) - 1
    train_x = dataset.train_x.reshape(len(dataset.train_x), -1) / scale
    test_x = dataset.test_x.reshape(len(dataset.test_x), -1) / scale
    for name, make in METHODS.items():
        errors = []
        for seed in arguments.label_seeds:
            labels = mask_labels(dataset.train_y, arguments.num_labelled, seed, dataset.num_classes)
            known = labels >= 0 if name.startswith("supervised") else slice(None)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                fitted = make().fit(train_x[known], labels[known])  # type: ignore[attr-defined]
            errors.append(100 * np.mean(fitted.predict(test_x) != dataset.test_y))
        listed = " ".join(f"{error:.1f}" for error in errors)
        print(f"{name}: {np.mean(errors):.2f} ± {np.std(errors, ddof=1):.2f} % ({listed})")


if __name__ == "__main__":
    main()

"""Vectors of several features, such as rows of a table; by itself breast cancer, 20 labels of 400.

    python train.py --config=configs/vectors.py
    python train.py --config=configs/vectors.py:13 --config.dataset=wine.npz --config.num_labelled=0

A minute on one core, start and figures included. Expect 4.5-7.5% error on 169 test objects (label
draws 0-4: 5.9, 4.7, 5.9, 6.5, 7.1), and 0.67-0.69 bits/dim (differential).

The number behind the file's name is that of the features, which have to be standardised: noise,
temperature and the precision of the prior follow from it. These are the settings of
``scnf_jax.estimator.SCNFClassifier``, which standardises by itself; a run can also be asked by the
words of ``python -m scnf_jax``.
"""

from ml_collections import ConfigDict, FieldReference

from configs import moons
from scnf_jax.models.vector import default_noise, default_prior_precision, default_temperature


def get_config(num_features: str = "30") -> ConfigDict:
    """``:D`` behind the file's name gives the number of features; the rest is as for the moons."""
    if not num_features.isdecimal() or int(num_features) < 2:
        raise ValueError(
            f"configs/vectors.py: expected :D, a number of features from 2, got :{num_features}"
        )
    temperature = default_temperature(int(num_features))
    config = moons.get_config()
    config.dataset = "breast_cancer"
    config.num_labelled = 20
    config.labelled_fraction = 0.05
    config.model.update(
        {
            "hidden": (64, 64),
            "coupling": "affine",
            "class_probs": FieldReference("learned", field_type=object),  # or numbers
            "num_features": int(num_features),
        }
    )
    config.objective.update(
        {
            "classification_weight": temperature,
            "consistency_weight": temperature,
            "temperature": temperature,
            "prior_precision": default_prior_precision(int(num_features)),
        }
    )
    config.augment = {"noise": default_noise(int(num_features)), "likelihood": True}
    return config

"""Vectors of several features, such as rows of a table; by itself breast cancer, 20 labels of 400.

    python train.py --config=configs/vectors.py
    python train.py --config=configs/vectors.py:13 --config.dataset=wine.npz --config.num_labelled=0

A minute on one core, start and figures included. Expect 6-9.5% error on 169 test objects (label
draws 0-4: 7.7, 5.9, 7.1, 7.7, 9.5), and 0.72-0.76 bits/dim (differential). Of so few objects the
density overfits, and after the first 200 steps it gets worse on others; the classes do not.

The number behind the file's name is that of the features, which have to be standardised: noise and
temperature follow from it. These are the settings of ``scnf_jax.estimator.SCNFClassifier``, which
standardises by itself; a run can also be asked by the words of ``python -m scnf_jax``.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config(num_features: str = "30") -> ConfigDict:
    """``:D`` behind the file's name gives the number of features."""
    if not num_features.isdecimal() or int(num_features) < 2:
        raise ValueError(
            f"configs/vectors.py: expected :D, a number of features from 2, got :{num_features}"
        )
    noise = min(max(0.02 * int(num_features), 0.1), 0.3)  # of two, the fine structure stays
    temperature = max(int(num_features) / 8, 1.0)
    config = ConfigDict()
    config.dataset = "breast_cancer"
    config.num_labelled = 20
    config.validation_size = 0
    config.pseudo_labels = placeholder(str)  # a finished run's folder; not given: none
    config.pseudo_label_shift = 0
    config.pseudo_label_share = 1.0
    config.seed = 0
    config.label_seed = placeholder(int)  # not given: that of config.seed
    config.label_file = placeholder(str)  # CSV of labels by hand; not given: none
    config.distributed = placeholder(str)  # auto, or HOST:PORT,PROCESSES,NUMBER
    config.stream = placeholder(bool)  # train objects on disk; not given: above 1 GiB
    config.steps = 800
    config.batch_size = 256
    config.labelled_fraction = 0.05
    config.eval_every = 100
    config.checkpoint_every = 400
    config.steps_per_call = 50
    config.model = {
        "name": "vector",
        "steps": 3,
        "head_steps": 2,
        "hidden": (64, 64),
        "num_features": int(num_features),
        "coupling": "affine",
    }
    config.optimizer = {
        "name": "adam",
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "clip_norm": 5.0,
        "ema_decay": 0.99,
    }
    config.objective = {
        "name": "sgd",
        "refresh_every": 1,
        "classification_weight": temperature,
        "consistency_weight": temperature,
        "temperature": temperature,
    }
    config.augment = {"noise": noise, "likelihood": True}
    return config

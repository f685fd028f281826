"""The seven rows of the paper's table on handwritten digits, small enough for any laptop.

    python train.py --config=configs/digits_table.py:ROW

ROW is ``glow_sgd``, ``glow_em``, ``glow_em_clf``, ``gmm_sgd``, ``gmm_em``, ``gmm_em_clf`` or
``m1m2``: 100 labels of 1,297 real 8x8 scans, no augmentation, the paper's network with
narrower and shallower conditioners. A row trains for half a minute to four minutes on average of
label draws 0-4, for seven at most. Expect, as means of these, 14-16% error for the GLOW rows,
22-32% for the GMM rows (the paper, too, has GLOW ahead), 17% for ``m1m2``, and 2.16-2.18 bits/dim;
docs/RESULTS.md has every run.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

ROWS = ("glow_sgd", "glow_em", "glow_em_clf", "gmm_sgd", "gmm_em", "gmm_em_clf", "m1m2")
_EM_PERIOD = 10


def get_config(row: str = "glow_sgd") -> ConfigDict:
    """``:ROW`` behind the file's name gives that row's settings."""
    if row not in ROWS:
        raise ValueError(f"configs/digits_table.py: expected :ROW of {', '.join(ROWS)}; got :{row}")
    config = ConfigDict()
    config.dataset = "digits"
    config.num_labelled = 100
    config.validation_size = 0
    config.seed = 0
    config.label_seed = placeholder(int)  # not given: that of config.seed
    config.label_file = placeholder(str)  # CSV of labels by hand; not given: none
    config.distributed = placeholder(str)  # auto, or HOST:PORT,PROCESSES,NUMBER
    config.stream = placeholder(bool)  # train objects on disk; not given: above 1 GiB
    config.augment = {}  # no views
    if row == "m1m2":
        _m1m2(config)
    else:
        _flow(config, row)
    return config


def _flow(config: ConfigDict, row: str) -> None:
    head, algorithm, *classification = row.split("_")
    config.steps = 1200
    config.batch_size = 128
    config.labelled_fraction = 1 / 3
    config.eval_every = 300
    config.checkpoint_every = 600
    config.steps_per_call = 20
    config.model = {
        "name": "paper",
        "head": head,
        "width": 32,
        "num_blocks": 0,
        "head_width": 64,
        "head_blocks": 1,
    }
    config.optimizer = {
        "name": "adamax",
        "learning_rate": 3e-3,
        "schedule": "linear",
        "weight_decay": 1e-5,
    }
    config.objective = {
        "name": algorithm,
        "refresh_every": _EM_PERIOD if algorithm == "em" else 1,
        "classification_weight": 1.0 if classification else 0.0,
    }


def _m1m2(config: ConfigDict) -> None:
    m1_steps = 4000
    config.steps = m1_steps + 6000
    config.batch_size = 128
    config.labelled_fraction = 100 / 1297
    config.eval_every = 1000
    config.checkpoint_every = 3000
    config.steps_per_call = 200
    config.model = {
        "name": "m1m2",
        "m1_steps": m1_steps,
        "num_train": 1297,
        "hidden": (200, 200),
        "latent_dim": 20,
        "m2_hidden": 100,
    }
    config.optimizer = {"name": "adam", "learning_rate": 1e-3, "schedule": "constant"}
    config.objective = {"name": "sgd", "refresh_every": 1, "classification_weight": 0.1}

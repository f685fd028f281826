"""One row of the paper's MNIST table, with the authors' settings.

    python train.py --config=configs/mnist_table.py:ROW

ROW is ``glow_sgd``, ``glow_em``, ``glow_em_clf``, ``gmm_sgd``, ``gmm_em``, ``gmm_em_clf`` or
``m1m2``. A flow's row is 500 epochs, 2.7e17 floating-point operations: hours on a fast
accelerator, a month on 2 cores. The state is saved every 1,000 steps and the same command
resumes, so a row may be trained in slices. To expect are the paper's figures, such as 1.9%
and 1.145 bits/dim for ``glow_sgd``; docs/RESULTS.md says which rows were run on this code.

Not known from the paper or its code, and chosen here: the period of EM, one epoch, and the
weight of the classification term, 1 nat per labelled object.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

ROWS = ("glow_sgd", "glow_em", "glow_em_clf", "gmm_sgd", "gmm_em", "gmm_em_clf", "m1m2")
_EPOCH = 60_000 / 256


def get_config(row: str = "glow_sgd") -> ConfigDict:
    """``:ROW`` behind the file's name gives that row's settings."""
    if row not in ROWS:
        raise ValueError(f"configs/mnist_table.py: expected :ROW of {', '.join(ROWS)}; got :{row}")
    config = ConfigDict()
    config.dataset = "mnist"
    config.num_labelled = 100
    config.validation_size = 0
    config.seed = 0
    config.label_seed = placeholder(int)  # not given: that of config.seed
    config.label_file = placeholder(str)  # CSV of labels by hand; not given: none
    config.distributed = placeholder(str)  # auto, or HOST:PORT,PROCESSES,NUMBER
    config.stream = placeholder(bool)  # train objects on disk; not given: above 1 GiB
    config.checkpoint_every = 1000
    config.eval_batch_size = 500
    config.steps_per_call = 20
    config.augment = {}  # no views
    if row == "m1m2":
        _m1m2(config)
    else:
        _flow(config, row)
    return config


def _flow(config: ConfigDict, row: str) -> None:
    head, algorithm, *classification = row.split("_")
    config.steps = round(500 * _EPOCH)
    config.batch_size = 256
    config.labelled_fraction = 1 / 3
    config.eval_every = 5000
    config.model = {"name": "paper", "head": head}
    config.optimizer = {
        "name": "adamax",
        "learning_rate": 1e-3,
        "schedule": "linear",
        "weight_decay": 1e-5,
    }
    config.objective = {
        "name": algorithm,
        "refresh_every": round(_EPOCH) if algorithm == "em" else 1,
        "classification_weight": 1.0 if classification else 0.0,
    }


def _m1m2(config: ConfigDict) -> None:
    m1_steps = 100_000
    config.steps = m1_steps + 300_000
    config.batch_size = 500
    config.labelled_fraction = 1 / 500
    config.eval_every = 20_000
    config.steps_per_call = 200
    config.model = {"name": "m1m2", "m1_steps": m1_steps, "num_train": 60_000}
    config.optimizer = {"name": "adam", "learning_rate": 3e-4, "schedule": "constant"}
    config.objective = {"name": "sgd", "refresh_every": 1, "classification_weight": 0.1}

"""Handwritten digits, 100 labels of 1,297 real 8x8 scans; the data is in scikit-learn.

    python train.py --config=configs/digits.py

The labels are first spread over nearest neighbours, in seconds; then a flow learns from all of
them, for 6 to 11 minutes on one slow core. Expect 1.0-3.2% error on 500 test scans, 1.9% on average
over label draws 0-4, and 2.07 bits/dim; the same settings on other threads may differ by half a
percent and more (draw 0: 2.0 on one core, 2.2 on two).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config(mode: str = "full") -> ConfigDict:
    """``:MODE`` behind the file's name trains something else: ``configs/digits.py:alone``.

    ``:alone`` learns from the labels that were drawn, with none spread to other scans: take it for
    images whose class their nearest neighbours do not show.
    ``:tiny`` is that for 20 steps of a small flow, as a check.
    """
    config = ConfigDict()
    config.dataset = "digits"
    config.num_labelled = 100
    config.validation_size = 0
    config.pseudo_labels = placeholder(str)  # a finished run's folder; not given: none
    config.pseudo_label_shift = 0
    config.pseudo_label_spreading = 0.99  # share of nearest neighbours in such a label
    config.pseudo_label_share = 1.0
    config.posterior_at = "noise"
    config.seed = 0
    config.label_seed = placeholder(int)  # not given: that of config.seed
    config.label_file = placeholder(str)  # CSV of labels by hand; not given: none
    config.distributed = placeholder(str)  # auto, or HOST:PORT,PROCESSES,NUMBER
    config.stream = placeholder(bool)  # train objects on disk; not given: above 1 GiB
    config.steps = 1000
    config.batch_size = 128
    config.labelled_fraction = 0.3
    config.eval_every = 200
    config.checkpoint_every = 500
    config.steps_per_call = 5
    config.model = {
        "name": "glow",
        "steps": (4, 4),
        "width": 32,
        "head_steps": 8,
        "head_width": 64,
        "linear": "lu",
        "coupling": "affine",
        "scale": "exp",
        "unroll": 4,
        "memory": "store",
        "dtype": "float32",
    }
    config.optimizer = {
        "name": "adam",
        "learning_rate": 2e-3,
        "schedule": "constant",
        "warmup_steps": 50,
        "clip_norm": 50.0,
        "ema_decay": 0.995,
    }
    config.objective = {
        "name": "sgd",
        "refresh_every": 1,
        "classification_weight": 40.0,
        "consistency_weight": 40.0,
        "temperature": 32.0,
        "prior_precision": 15.0,
    }
    config.augment = {"shift": 1.2, "rotate": 20.0, "scale": 0.2, "shear": 0.2, "elastic": 0.6}
    if mode in ("alone", "tiny"):
        _learn_alone(config)
        if mode == "tiny":
            config.steps = config.eval_every = config.checkpoint_every = 20
            config.model.update({"steps": (1, 1), "width": 8, "head_steps": 1, "head_width": 8})
    elif mode != "full":
        raise ValueError(f"configs/digits.py: expected :full, :alone or :tiny, got :{mode}")
    return config


def _learn_alone(config: ConfigDict) -> None:
    """From the labels that were drawn, whose terms have to weigh more where they are few."""
    config.pseudo_label_spreading = 0.0
    config.steps = 1200
    config.checkpoint_every = 400
    config.objective.update({"classification_weight": 120.0, "consistency_weight": 120.0})

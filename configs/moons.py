"""Two moons, 10 labels of 1,000 points.

    python train.py --config=configs/moons.py

40 s on 2 cores, start and figures included. Expect no error on 1,000 test points
(label draws 0-4: 0.0 each), and 0.78-0.80 bits/dim (differential).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config(mode: str = "full") -> ConfigDict:
    """``:tiny`` behind the file's name trains 20 steps of a small flow, as a check."""
    config = ConfigDict()
    config.dataset = "moons"
    config.num_labelled = 10
    config.validation_size = 0
    config.pseudo_labels = placeholder(str)  # a finished run's folder; not given: none
    config.pseudo_label_shift = 0
    config.pseudo_label_spreading = 0.0  # share of nearest neighbours in such a label
    config.pseudo_label_share = 1.0
    config.seed = 0
    config.label_seed = placeholder(int)  # not given: that of config.seed
    config.label_file = placeholder(str)  # CSV of labels by hand; not given: none
    config.distributed = placeholder(str)  # auto, or HOST:PORT,PROCESSES,NUMBER
    config.stream = placeholder(bool)  # train objects on disk; not given: above 1 GiB
    config.steps = 800
    config.batch_size = 256
    config.labelled_fraction = 0.02
    config.eval_every = 100
    config.checkpoint_every = 400
    config.steps_per_call = 50
    config.model = {
        "name": "vector",
        "steps": 3,
        "head_steps": 2,
        "hidden": (32, 32),
        "coupling": "spline",
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
        "classification_weight": 1.0,
        "consistency_weight": 1.0,
    }
    config.augment = {"noise": 0.15}
    if mode == "tiny":
        config.steps = config.eval_every = config.checkpoint_every = 20
        config.model.update({"steps": 1, "head_steps": 1})
    elif mode != "full":
        raise ValueError(f"configs/moons.py: expected :full or :tiny, got :{mode}")
    return config

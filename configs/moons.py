"""Two moons, 10 labels of 1,000 points.

    python train.py --config=configs/moons.py

PLACEHOLDER
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config(mode: str = "full") -> ConfigDict:
    """``:tiny`` behind the file's name trains 20 steps of a small flow, as a check."""
    config = ConfigDict()
    config.dataset = "moons"
    config.num_labelled = 10
    config.seed = 0
    config.label_seed = placeholder(int)  # not given: that of config.seed
    config.steps = 3000
    config.batch_size = 256
    config.labelled_fraction = 0.1
    config.eval_every = 250
    config.checkpoint_every = 1000
    config.steps_per_call = 50
    config.model = {"name": "vector", "steps": 4, "head_steps": 2, "coupling": "spline"}
    config.optimizer = {
        "name": "adam",
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "clip_norm": 5.0,
        "ema_decay": 0.99,
    }
    config.objective = {"name": "sgd"}
    if mode == "tiny":
        config.steps = config.eval_every = config.checkpoint_every = 20
        config.model.update({"steps": 1, "head_steps": 1})
    elif mode != "full":
        raise ValueError(f"configs/moons.py: expected :full or :tiny, got :{mode}")
    return config

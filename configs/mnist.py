"""MNIST, 100 labels of 60,000, through TFDS.

    python train.py --config=configs/mnist.py
    python train.py --config=configs/mnist.py:alone
    python train.py --config=configs/mnist.py:small
    python train.py --config=configs/mnist.py:classifier
    python train.py --config=configs/mnist.py:spread

The first trains ``:classifier`` for 12 minutes on one core, and then a flow on its labels for
101-126 minutes; expect 1.4-1.6% test error and 1.07 bits/dim (label draws 2-4: 1.60% and 1.068,
1.49% and 1.066, 1.39% and 1.074). ``:alone`` takes 55 minutes on two cores (draws 2 and 3: 1.90%
and 1.595, 2.21% and 1.610), ``:small`` 37-46 on one (draws 0-3: 2.20, 2.37, 2.33, 2.30% and 1.7).
``:classifier`` and ``:spread`` have no density (draws 2-4: 1.15, 1.19 and 1.09%, and in half as
many steps 0.85, 0.85 and 1.83%).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config(mode: str = "full") -> ConfigDict:
    """``:alone``, ``:small``, ``:classifier``, ``:spread`` or ``:tiny`` behind the file's name.

    By default a flow trains for the likelihood, with the labels that a run of ``:classifier``
    gives all train images; that run goes first, into the folder of this one. ``:alone`` is a flow
    that learns from the 100 labels by itself, ``:small`` the same with narrow conditioners of two
    convolutions. ``:classifier`` is a convolutional network for p(y|x) alone, by consistency,
    ``:spread`` the same network on labels that were spread over nearest neighbours before.
    ``:tiny`` trains 20 steps of a smaller flow, as a check.
    """
    config = ConfigDict()
    config.dataset = "mnist"
    config.num_labelled = 100
    config.validation_size = 0
    config.pseudo_labels = placeholder(str)  # a finished run's folder; empty: no such labels
    config.pseudo_labels = "{workdir}/classifier"  # by that mode of this file, trained first
    config.pseudo_label_shift = 1
    config.pseudo_label_spreading = 0.0  # share of nearest neighbours in such a label
    config.pseudo_label_share = 1.0
    config.posterior_at = "middle"
    config.seed = 0
    config.label_seed = placeholder(int)  # not given: that of config.seed
    config.label_file = placeholder(str)  # CSV of labels by hand; not given: none
    config.distributed = placeholder(str)  # auto, or HOST:PORT,PROCESSES,NUMBER
    config.stream = placeholder(bool)  # train objects on disk; not given: above 1 GiB
    config.steps = 12_000
    config.batch_size = 64
    config.labelled_fraction = placeholder(float)  # not given: each object as likely
    config.init_batch_size = 4096  # the histograms of pixels are counted on it
    config.eval_every = 1000
    config.checkpoint_every = 500
    config.steps_per_call = 4
    config.eval_batch_size = 1000
    config.model = {
        "name": "glow",
        "steps": (4, 8),
        "width": (32, 128),
        "num_blocks": 0,
        "num_pointwise": 1,
        "split_last": 1,
        "pixel_steps": 2,
        "vector_steps": 4,
        "head_steps": 2,
        "head_width": 64,
        "linear": "lu",
        "scale": "exp",
        "histogram_bins": 256,
        "unroll": 8,
        "memory": "store",
        "dtype": "float32",
    }
    config.optimizer = {
        "name": "adam",
        "learning_rate": 2e-3,
        "schedule": "linear",
        "decay_share": 0.2,
        "warmup_steps": 100,
        "clip_norm": 500.0,
        "ema_decay": 0.998,
    }
    config.objective = {
        "name": "sgd",
        "classification_weight": 25.0,
        "consistency_weight": 25.0,  # second views have to get the labels, too
        "view_every": 2,
        "temperature": 10.0,
        "anneal_to": 1.0,
    }
    config.augment = {"shift": 1.0, "rotate": 12.0, "scale": 0.2, "shear": 0.2, "elastic": 2.0}
    config.augment.at = "middle"
    if mode in ("alone", "small", "tiny"):
        _learn_alone(config)
        if mode == "small":
            config.posterior_at = "noise"
            config.model.update({"width": (16, 64), "num_pointwise": 0})
        elif mode == "tiny":
            config.steps = config.eval_every = config.checkpoint_every = 20
            config.batch_size = 16
            config.init_batch_size = 64
            config.model.update(
                {"steps": (1, 1), "width": (4, 4), "head_steps": 1, "head_width": 8}
            )
    elif mode == "spread":
        _classify_alone(config)
        config.labelled_fraction = None
        config.pseudo_label_spreading = 0.99
        config.steps = 2500
        config.objective = {"name": "sgd", "consistency_weight": 1.0}
    elif mode == "classifier":
        _classify_alone(config)
        config.steps = 5000
        config.objective = {
            "name": "sgd",
            "teacher": "averaged",
            "classification_weight": 1.0,
            "consistency_weight": 2.0,
            "self_training_weight": 1.0,
            "sharpening": 3.0,
            "align_classes": False,  # classes of MNIST are not equally frequent
        }
    elif mode != "full":
        raise ValueError(
            "configs/mnist.py: expected :full, :alone, :small, :classifier, :spread or :tiny, got "
            f":{mode}"
        )
    return config


def _learn_from_few_labels(config: ConfigDict) -> None:
    """From those that were drawn, a fifth of every batch, and from no other run's."""
    config.pseudo_labels = None
    config.pseudo_label_shift = 0
    config.labelled_fraction = 0.2
    config.eval_every = 500
    config.optimizer.update({"learning_rate": 1e-3, "schedule": "cosine", "decay_share": 1.0})


def _classify_alone(config: ConfigDict) -> None:
    """By a convolutional network for p(y|x)."""
    _learn_from_few_labels(config)
    config.posterior_at = "noise"
    config.batch_size = 128
    config.steps_per_call = 20
    config.model = {"name": "classifier", "width": 24}
    config.optimizer.clip_norm = 0.0
    config.augment.at = "noise"


def _learn_alone(config: ConfigDict) -> None:
    """From few labels, by EM, and targets of the parameters' average, kept for many steps."""
    _learn_from_few_labels(config)
    config.steps = 6000
    config.model.update({"width": (48, 192), "pixel_steps": 0, "vector_steps": 0})
    config.objective = {
        "name": "em",
        "refresh_every": 600,
        "refresh_from": 1000,
        "teacher": "averaged",
        "e_step_temperature": 16.7,
        "classification_weight": 5000.0,
        "consistency_weight": 10_000.0,
        "self_training_weight": 5000.0,
        "view_weight": 1.0,
        "anneal_to": 0.3,
        "sharpening": 3.0,
        "align_classes": True,
        "temperature": 50.0,
    }
    config.augment = {"shift": 3.0, "rotate": 20.0, "scale": 0.25, "shear": 0.2, "elastic": 1.5}

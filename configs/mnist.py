"""MNIST, 100 labels of 60,000, through TFDS.

    python train.py --config=configs/mnist.py
    python train.py --config=configs/mnist.py:small
    python train.py --config=configs/mnist.py:density
    python train.py --config=configs/mnist.py:classifier --workdir=runs/classifier-0

The third needs the last to have finished in ``runs/classifier-0``. The first takes 55 minutes on
two cores; expect 1.9-2.2% test error and 1.6 bits/dim (measured with label draws 2 and 3: 1.90
and 2.21%). ``:density`` learns from the labels of ``:classifier``, in 114 minutes more on one
core (draws 2 and 3: 1.49% and 1.056, 1.78% and 1.052). ``:small`` takes 45 minutes on one core,
for 2.2-2.4% and 1.7 bits/dim (draws 0-3: 2.20, 2.37, 2.33, 2.30%). ``:classifier`` has no
density; ten minutes on one core (draws 2 and 3: 1.15 and 1.19%).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config(mode: str = "full") -> ConfigDict:
    """``:small``, ``:density``, ``:classifier`` or ``:tiny`` behind the file's name.

    ``:small`` has narrow conditioners of two convolutions; ``:density`` trains for the likelihood,
    with the labels that a run of ``:classifier`` gives all train images; ``:classifier`` is a
    convolutional network for p(y|x) alone, by consistency; ``:tiny`` trains 20 steps of a smaller
    flow, as a check.
    """
    config = ConfigDict()
    config.dataset = "mnist"
    config.num_labelled = 100
    config.validation_size = 0
    config.pseudo_labels = placeholder(str)  # a finished run's folder; not given: none
    config.pseudo_label_shift = 0
    config.pseudo_label_share = 1.0
    config.posterior_at = "middle"
    config.seed = 0
    config.label_seed = placeholder(int)  # not given: that of config.seed
    config.label_file = placeholder(str)  # CSV of labels by hand; not given: none
    config.distributed = placeholder(str)  # auto, or HOST:PORT,PROCESSES,NUMBER
    config.stream = placeholder(bool)  # train objects on disk; not given: above 1 GiB
    config.steps = 6000
    config.batch_size = 64
    config.labelled_fraction = placeholder(float)
    config.labelled_fraction = 0.2
    config.init_batch_size = 4096  # the histograms of pixels are counted on it
    config.eval_every = 500
    config.checkpoint_every = 500
    config.steps_per_call = 4
    config.eval_batch_size = 1000
    config.model = {
        "name": "glow",
        "steps": (4, 8),
        "width": (48, 192),
        "num_blocks": 0,
        "num_pointwise": 1,
        "split_last": 1,
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
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warmup_steps": 100,
        "clip_norm": 500.0,
        "ema_decay": 0.998,
    }
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
    if mode == "small":
        config.posterior_at = "noise"
        config.model.width = (16, 64)
        config.model.num_pointwise = 0
    elif mode == "density":
        config.eval_every = 1000
        config.pseudo_labels = "runs/classifier-{seed}"
        config.pseudo_label_shift = 1
        config.labelled_fraction = None  # most objects have a label now
        config.model.width = (32, 128)
        config.model.pixel_steps = 2
        config.model.vector_steps = 4
        config.steps = 16_000
        config.optimizer.learning_rate = 2e-3
        config.optimizer.schedule = "linear"
        config.optimizer.decay_share = 0.2
        config.objective = {
            "name": "sgd",
            "classification_weight": 50.0,
            "temperature": 10.0,
            "anneal_to": 1.0,
        }
        config.augment = {}
    elif mode == "classifier":
        config.posterior_at = "noise"
        config.batch_size = 128
        config.steps = 5000
        config.steps_per_call = 20
        config.model = {"name": "classifier", "width": 24}
        config.optimizer.clip_norm = 0.0
        config.objective = {
            "name": "sgd",
            "teacher": "averaged",
            "classification_weight": 1.0,
            "consistency_weight": 2.0,
            "self_training_weight": 1.0,
            "sharpening": 3.0,
            "align_classes": False,  # classes of MNIST are not equally frequent
        }
        config.augment = {"shift": 1.0, "rotate": 12.0, "scale": 0.2, "shear": 0.2, "elastic": 2.0}
    elif mode == "tiny":
        config.steps = config.eval_every = config.checkpoint_every = 20
        config.batch_size = 16
        config.init_batch_size = 64
        config.model.update({"steps": (1, 1), "width": (4, 4), "head_steps": 1, "head_width": 8})
    elif mode != "full":
        raise ValueError(
            f"configs/mnist.py: expected :full, :small, :density, :classifier or :tiny, got :{mode}"
        )
    return config

"""Every setting of a run, and the check of a config."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from scnf_jax.losses import AugmentOptions, ObjectiveOptions
from scnf_jax.options import check_positive, check_range, from_mapping
from scnf_jax.training import OptimizerOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """Which objects and labels a run sees.

    Attributes:
      dataset: see :func:`~scnf_jax.data.load_dataset`.
      num_labelled: labels that stay; 0 keeps every known label.
      seed: of all randomness of training.
      label_seed: decides which labels stay; None: ``seed``.
      label_file: CSV of labels that were given by hand, beside those that stay; see
        :func:`~scnf_jax.data.read_answers`. ``{seed}`` in it stands for ``seed``. None or
        empty: none.
      validation_size: train objects that take the place of the test set, so that
        settings can be chosen without test labels; 0: the test set.
    """

    dataset: str
    num_labelled: int
    seed: int = 0
    label_seed: int | None = None
    label_file: str | None = None
    validation_size: int = 0

    def __post_init__(self) -> None:
        check_range("seed", self.seed, 0, 2**32 - 1)
        check_range("label_seed", self.resolved_label_seed, 0, 2**32 - 1)
        check_range("num_labelled", self.num_labelled, 0)
        check_range("validation_size", self.validation_size, 0)
        if self.label_file and self.validation_size:
            raise ValueError(
                "label_file: expected validation_size 0, since the rows of a file count all train "
                f"objects; got {self.validation_size}"
            )

    @property
    def resolved_label_seed(self) -> int:
        """The seed that decides which labels stay."""
        return self.seed if self.label_seed is None else self.label_seed

    @property
    def resolved_label_file(self) -> str | None:
        """The file of labels that were given by hand; None where there is none."""
        return self.with_seed(self.label_file) if self.label_file else None

    def with_seed(self, path: str) -> str:
        """A path with ``seed`` in the place of ``{seed}``."""
        return path.replace("{seed}", str(self.seed))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions(LabelOptions):
    """Every setting of a run; a config gives them, and those of ``LabelOptions``, by these names.

    Attributes:
      steps: of training.
      batch_size: rows of a step, over all devices.
      eval_every: steps between evaluations on the whole test set.
      checkpoint_every: steps between checkpoints.
      model: ``name`` of a builder in :mod:`scnf_jax.models` and its settings.
      labelled_fraction: share of labelled rows in a batch, at least; where more of the data are
        labelled it is their share. None: each object is as likely as any other.
      steps_per_call: steps in one jitted call, and between two log lines; lowered to
        divide ``steps``, ``eval_every`` and ``checkpoint_every``.
      eval_batch_size: rows that evaluation puts through the model at a time.
      init_batch_size: rows that data-dependent layers are initialised on.
      pseudo_labels: folder of a finished run on the same labels, whose labels the objects
        without one get; ``{seed}`` in it stands for ``seed``, ``{workdir}`` for the folder of this
        run. ``{workdir}/MODE``: ``train.py`` trains it there first, by ``MODE`` of the same config
        file, with the data, labels, seed and changed views of this run. None or empty: none.
      pseudo_label_shift: pixels p by which that run also sees each image moved, up, down, left and
        right; a label is the largest of the mean of the five log posteriors. 0: the image alone.
      pseudo_label_spreading: share of an object's nearest neighbours in its label, below 1: the
        posterior of that run, or without one the known labels alone, are spread over the train
        objects; see :func:`~scnf_jax.spreading.spread_labels`. 0: they are not.
      pseudo_label_share: of the objects of each class, the surest first, that get one; see
        :func:`~scnf_jax.pseudo_labels.surest_labels`.
      posterior_at: where in its grey levels an image is classified: ``noise``, the draw at which
        its density is evaluated, or ``middle``, without noise; see
        :func:`~scnf_jax.losses.make_scores`.
      stream: whether train objects stay on disk and are read as they are needed; see
        :func:`~scnf_jax.data.load_dataset`.
      optimizer: see :class:`~scnf_jax.training.OptimizerOptions`.
      objective: see :class:`~scnf_jax.losses.ObjectiveOptions`.
      augment: see :class:`~scnf_jax.losses.AugmentOptions`.
    """

    steps: int
    batch_size: int
    eval_every: int
    checkpoint_every: int
    model: dict[str, Any]
    labelled_fraction: float | None = None
    steps_per_call: int = 20
    eval_batch_size: int = 500
    init_batch_size: int = 512
    pseudo_labels: str | None = None
    pseudo_label_shift: int = 0
    pseudo_label_spreading: float = 0.0
    pseudo_label_share: float = 1.0
    posterior_at: str = "noise"
    stream: bool | None = None
    optimizer: OptimizerOptions = dataclasses.field(default_factory=OptimizerOptions)
    objective: ObjectiveOptions = dataclasses.field(default_factory=ObjectiveOptions)
    augment: AugmentOptions = dataclasses.field(default_factory=AugmentOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in (
            "steps",
            "batch_size",
            "eval_every",
            "checkpoint_every",
            "steps_per_call",
            "eval_batch_size",
            "init_batch_size",
        ):
            check_positive(field, getattr(self, field))
        check_range("pseudo_label_shift", self.pseudo_label_shift, 0)
        check_range("pseudo_label_spreading", self.pseudo_label_spreading, 0.0, 1.0 - 1e-6)
        check_range("pseudo_label_share", self.pseudo_label_share, 0.0, 1.0)

    @property
    def has_pseudo_labels(self) -> bool:
        """Whether objects without a label get one before training."""
        return bool(self.pseudo_labels or self.pseudo_label_spreading)

    @property
    def chunk(self) -> int:
        """Steps of one jitted call."""
        return math.gcd(self.steps_per_call, self.steps, self.eval_every, self.checkpoint_every)


def parse_config(config: Mapping[str, Any]) -> RunOptions:
    """Checks plain settings.

    Args:
      config: nested dicts of plain values, as a config file gives them.

    Returns:
      The settings.

    Raises:
      ValueError: for an unknown key, with a suggestion, a wrong type, a value out of
        range, or settings that contradict each other.
    """
    groups = {
        "optimizer": OptimizerOptions,
        "objective": ObjectiveOptions,
        "augment": AugmentOptions,
    }
    if "baseline" in config:
        raise ValueError("baseline: the settings of scikit-learn's classifiers, which are no model")
    parsed = dict(config)
    parsed.pop("distributed", None)  # of the job that computes the run; see train.py
    for name, options in groups.items():
        if name in parsed:
            if not isinstance(parsed[name], Mapping):
                raise ValueError(f"{name}: expected a group of settings, got {parsed[name]!r}")
            parsed[name] = from_mapping(options, parsed[name], name)
    return from_mapping(RunOptions, parsed, "")

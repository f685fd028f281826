"""A trained model on many objects: batches of one size, so that one compilation serves all."""

import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scnf_jax import parallel
from scnf_jax.bijectors.base import Array, Params
from scnf_jax.data.batches import joined, padded, slices
from scnf_jax.loading import LoadedRun
from scnf_jax.losses import evaluation_keys, make_classified_input, make_numbered_input
from scnf_jax.metrics import bits_per_dim, log_posterior_of
from scnf_jax.scnf import Latents, SemiConditionalFlow

LABEL_CHOICES = ("likely", "sampled", "given")
_BAR_AFTER = 5.0  # seconds


class Scores(NamedTuple):
    """What a model says of objects.

    Attributes:
      log_posterior: ``log p(y = k | x) [N, K]``.
      log_prob: ``log p(x) [N]`` in nats on the scale of [0, 1); None for a model without
        a density, or where it was not asked for.
      bits_per_dim: the same in bits per dimension ``[N]``.
    """

    log_posterior: np.ndarray
    log_prob: np.ndarray | None
    bits_per_dim: np.ndarray | None

    @property
    def label(self) -> np.ndarray:
        """The most likely label ``[N]``; -1 where the posterior is not a number."""
        unknown = np.isnan(self.log_posterior).any(-1)
        return np.where(unknown, -1, np.argmax(self.log_posterior, -1))

    @property
    def entropy(self) -> np.ndarray:
        """Of the posterior ``[N]``, in nats."""
        logs = np.maximum(self.log_posterior.astype(np.float64), -700.0)
        return -np.sum(np.exp(logs) * logs, -1)


class Engine:
    """Compiled functions of one trained model.

    The dequantisation noise of an object is a function of ``seed`` and of the object's
    number, so that what is said of objects does not depend on the size of the batches; samples do.

    Args:
      run: the trained model.
      batch_size: objects that go through the model at a time; memory grows with it, not
        with the number of objects.
      seed: of noise, samples and sampled labels.
      posterior_at: where objects are classified, ``noise`` or ``middle``; None: where the run says.
    """

    def __init__(
        self,
        run: LoadedRun,
        batch_size: int = 250,
        seed: int = 0,
        posterior_at: str | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected an integer >= 1, got {batch_size}")
        self.run, self.batch_size = run, batch_size
        self._keys = evaluation_keys(seed)
        self._prepare = make_numbered_input(run.model, run.num_levels)
        self.posterior_at = posterior_at or run.options.posterior_at
        self._classified = make_classified_input(run.model, run.num_levels, self.posterior_at)
        self._log_joint = jax.jit(self._log_joint_of)
        self._log_posterior = jax.jit(self._log_posterior_of)
        self._encode = jax.jit(self._encode_of)
        if isinstance(run.model, SemiConditionalFlow):
            self._decode = jax.jit(run.model.decode)
            self._sample = jax.jit(run.model.sample)

    @property
    def has_density(self) -> bool:
        """Whether the model is a flow, and not M1+M2 or a classifier."""
        return isinstance(self.run.model, SemiConditionalFlow)

    @property
    def flow(self) -> SemiConditionalFlow:
        """The model, where it has a density.

        Raises:
          ValueError: for M1+M2 or a classifier, which have none.
        """
        if not isinstance(self.run.model, SemiConditionalFlow):
            name = self.run.config["model"]["name"]
            raise ValueError(
                f"{self.run.folder}: expected a flow, got {name}, which has no density and no "
                "exact latents; evaluate and predict work on it"
            )
        return self.run.model

    def require_density(self) -> None:
        """Raises ValueError for a model that has none; see :attr:`flow`."""
        self.flow  # noqa: B018

    def _objects(self, x: Array, rows: Array) -> Array:
        """Stored objects as the model takes them, with noise by the object's number."""
        return self._prepare(self._keys.noise, rows, x)

    def _log_joint_of(self, params: Params, x: Array, rows: Array) -> Array:
        return self.flow.log_joint(params, self._objects(x, rows))

    def _log_posterior_of(self, params: Params, x: Array, rows: Array) -> Array:
        x = self._classified(self._keys.noise, rows, x)
        return self.run.model.log_posterior(params, x)

    def _encode_of(self, params: Params, x: Array, rows: Array, label: Array) -> Latents:
        return self.flow.encode(params, self._objects(x, rows), label)

    def batches(self, num: int) -> Iterator[slice]:
        """Consecutive slices of at most ``batch_size`` rows.

        On a terminal a bar shows how far it has come, where that takes longer than five seconds.
        """
        if not (parallel.is_first() and sys.stderr.isatty()):
            yield from slices(num, self.batch_size)
            return
        from tqdm import tqdm

        settings = {"unit": "object", "delay": _BAR_AFTER, "leave": False, "dynamic_ncols": True}
        with tqdm(total=num, **settings) as bar:
            for part in slices(num, self.batch_size):
                yield part
                bar.update(part.stop - part.start)

    def _run(self, function: Callable[..., Any], *arrays: Any) -> Any:
        """Applies a function of rows to one batch, padded to ``batch_size``."""
        num = len(arrays[0])
        full = jax.tree.map(lambda array: padded(array, self.batch_size), arrays)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:num], function(self.run.params, *full))

    def _rows(self, part: slice) -> np.ndarray:
        return np.arange(part.start, part.stop, dtype=np.int32)

    def _log_joint_of_batch(self, x: np.ndarray, part: slice) -> np.ndarray:
        return self._run(self._log_joint, x, self._rows(part)).astype(np.float64)

    def scores_of_batch(self, x: np.ndarray, part: slice, density: bool = True) -> Scores:
        """Scores of the rows ``part`` of a larger whole; ``x`` holds those rows alone.

        Without ``density`` a pass is saved where objects are classified in the middle.
        """
        log_prob = bits = None
        if self.has_density and (density or self.posterior_at == "noise"):
            log_joint = self._log_joint_of_batch(x, part)
            log_prob = np.logaddexp.reduce(log_joint, -1)
            bits = bits_per_dim(log_prob, self.run.num_dims, self.run.num_levels)
            if self.posterior_at == "noise":
                return Scores(log_posterior_of(log_joint), log_prob, bits)
        return Scores(self._run(self._log_posterior, x, self._rows(part)), log_prob, bits)

    def scores(self, x: np.ndarray, density: bool = True) -> Scores:
        """Scores of objects as stored: grey levels or vectors ``[N, *event]``."""
        parts = [self.scores_of_batch(x[part], part, density) for part in self.batches(len(x))]
        return Scores(*joined(parts))

    def posterior_of_latents(self, x: np.ndarray) -> np.ndarray:
        """``log p(y = k | z_f) [N, K]`` of the ``z_f`` of :meth:`encode`.

        That of :meth:`scores` is of another input where objects are classified in the middle.
        """
        parts = [self._log_joint_of_batch(x[part], part) for part in self.batches(len(x))]
        return log_posterior_of(joined(parts))

    def labels(self, x: np.ndarray, choice: str, given: np.ndarray | None = None) -> np.ndarray:
        """Labels to encode objects under.

        Args:
          x: objects as stored.
          choice: ``likely``, the posterior's maximum; ``sampled`` from the posterior;
            ``given``, where -1 stands for the most likely one.
          given: labels ``[N]``, for the choice ``given``.

        Returns:
          int32 ``[N]``.

        Raises:
          ValueError: for an unknown choice, or given labels that are missing, of another
            length or out of range.
        """
        if choice not in LABEL_CHOICES:
            raise ValueError(f"labels: expected {', '.join(LABEL_CHOICES)}, got {choice!r}")
        num_classes = self.run.num_classes
        if choice == "given":
            if given is None or np.shape(given) != (len(x),):
                got = "none" if given is None else f"an array of shape {np.shape(given)}"
                raise ValueError(
                    f"labels: expected {len(x)} given labels, one an object, got {got}; put them "
                    "as y into the .npz"
                )
            given = np.asarray(given)
            bad = np.flatnonzero((given < -1) | (given >= num_classes))
            if len(bad):
                raise ValueError(
                    f"labels: expected -1..{num_classes - 1}, got {given[bad[0]]} at index {bad[0]}"
                )
            if (given >= 0).all():
                return given.astype(np.int32)
        log_posterior = self.scores(x, density=False).log_posterior
        if choice == "sampled":
            drawn = jax.random.categorical(self._keys.label, jnp.asarray(log_posterior))
            return np.asarray(drawn, np.int32)
        likely = np.argmax(log_posterior, -1).astype(np.int32)
        if choice == "likely" or given is None:
            return likely
        return np.where(given < 0, likely, given).astype(np.int32)

    def encode(self, x: np.ndarray, label: np.ndarray) -> Latents:
        """Latents of objects as stored, under labels ``[N]``; see ``model.encode``."""
        parts = [
            self._run(self._encode, x[part], self._rows(part), label[part])
            for part in self.batches(len(x))
        ]
        return joined(parts)

    def decode(self, latents: Latents, label: np.ndarray) -> np.ndarray:
        """Objects of latents under labels ``[N]``, on the model's scale; see ``model.decode``."""
        parts = []
        for part in self.batches(len(label)):
            some = jax.tree.map(lambda leaf, part=part: leaf[part], latents)
            parts.append(self._run_tree(some, label[part]))
        return np.concatenate(parts)

    def _run_tree(self, latents: Latents, label: np.ndarray) -> np.ndarray:
        return self._run(lambda p, y, z: self._decode(p, z, y), label, latents)

    def sample(self, label: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """One object a label of ``[N]``, on the model's scale; see ``model.sample``."""
        self.require_density()
        parts = []
        for number, part in enumerate(self.batches(len(label))):
            key = jax.random.fold_in(self._keys.sample, number)
            parts.append(
                self._run(lambda p, y, key=key: self._sample(p, key, y, temperature), label[part])
            )
        return np.concatenate(parts)

    def to_levels(self, x: np.ndarray) -> np.ndarray:
        """Objects on the model's scale as stored: grey levels uint8; vectors pass.

        Far from what a flow was trained on its inverse can overflow. NaN becomes 0, an infinity
        the nearest level, and a warning says how many objects that concerns.
        """
        if self.run.num_levels is None:
            return x
        lost = np.sum(~np.isfinite(x).all(tuple(range(1, x.ndim))))
        if lost:
            warnings.warn(
                f"{lost} of {len(x)} objects are not finite, an overflow of the inverse: pixels "
                "that are NaN become 0",
                RuntimeWarning,
                stacklevel=2,
            )
        levels = np.floor(np.nan_to_num(x, nan=0.0) * self.run.num_levels)
        return np.clip(levels, 0, self.run.num_levels - 1).astype(np.uint8)

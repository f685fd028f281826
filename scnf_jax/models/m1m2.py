"""The stacked variational autoencoders M1+M2, the paper's baseline."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from scnf_jax.bijectors.base import Array, Conditioner, Params
from scnf_jax.conditioners import MLP
from scnf_jax.options import check_count, check_positive

_SPREAD_RATE = 30.0
_MIN_SPREAD = 0.1


class StackedVAE(NamedTuple):
    """Two variational autoencoders, one on top of the other; a bound, not a density.

    Attributes:
      num_classes: K.
      init: ``(key, x) -> params``, a dict with keys ``m1``, ``m2`` and ``spread``.
      draw: ``(key, x) -> rows``, what is random of a step, by name: the re-binarised pixels and
        normal noise, each ``[batch, ...]``.
      loss: ``(params, rows, label, labelled_weight, step, classification_weight) -> (loss,
        metrics)``, the mean over rows, in nats per object; ``labelled_weight [batch]`` makes of a
        mean over the batch one over its labelled rows.
      log_posterior: ``(params, x) -> [batch, K]``, ``log q(y = k | x)``.
    """

    num_classes: int
    init: Callable[[Array, Array], Params]
    draw: Callable[[Array, Array], dict[str, Array]]
    loss: Callable[..., tuple[Array, dict[str, Array]]]
    log_posterior: Callable[[Params, Array], Array]


def m1m2(
    event_shape: Sequence[int],
    num_classes: int,
    *,
    m1_steps: int,
    num_train: int,
    hidden: Sequence[int] = (500, 500),
    latent_dim: int = 50,
    m2_hidden: int = 300,
) -> StackedVAE:
    r"""M1+M2 of Kingma et al.: a VAE of the pixels, and a VAE with labels on its latents.

    M1 is trained for the first ``m1_steps`` steps, M2 for all others, on ``z_1`` drawn
    anew from ``q(z_1|x)`` in every step. Pixels are drawn as 0 or 1 with their grey level
    as probability. With ``L(z_1, y)`` the bound on ``log p(z_1, y)``, M2 ascends

    .. math::
        \text{labelled: } L(z_1, y), \qquad
        \text{unlabelled: } \sum_y q(y|z_1)\, L(z_1, y) + H(q(y|z_1))

    and descends the cross-entropy of ``q(y|z_1)``; all weights of M2 have a prior N(0, 1),
    divided by the number of train objects. M2 sees those elements of ``z_1`` whose
    posterior mean has a deviation above 0.1 over the data, and at test the mean itself.
    That deviation is learned beside the rest, by regression on that of the rows of each step (of
    each device's, where several share them).

    Args:
      event_shape: of one image with values in [0, 1].
      num_classes: K.
      m1_steps: steps that train M1.
      num_train: train objects, of the weights' prior.
      hidden: widths of M1's networks.
      latent_dim: of ``z_1`` and of ``z_2``.
      m2_hidden: width of M2's networks.

    Returns:
      The model, which the trainer takes like a flow. It has no density: bits/dim of
      re-binarised pixels cannot be compared with those of grey levels, and are left out.

    Raises:
      ValueError: for a size below 1, or ``m1_steps`` below 0.

    References:
      Kingma, Rezende, Mohamed, Welling 2014, "Semi-Supervised Learning with Deep
      Generative Models", sections 2-4, https://arxiv.org/abs/1406.5298
    """
    check_count("model.m1_steps", m1_steps)
    for name, value in ("num_train", num_train), ("latent_dim", latent_dim):
        check_positive(f"model.{name}", value)
    size = math.prod(event_shape)
    nets: dict[str, Conditioner] = {
        "encoder": MLP(2 * latent_dim, hidden, jax.nn.softplus),
        "decoder": MLP(size, tuple(reversed(hidden)), jax.nn.softplus),
        "classifier": MLP(num_classes, (m2_hidden,), jax.nn.softplus),
        "inference": MLP(2 * latent_dim, (m2_hidden,), jax.nn.softplus),
        "generator": MLP(2 * latent_dim, (m2_hidden,), jax.nn.softplus),
    }
    m2_names = ("classifier", "inference", "generator")

    def init(key: Array, x: Array) -> Params:
        keys = dict(zip(nets, jax.random.split(key, len(nets)), strict=True))

        def init_net(name: str) -> Params:
            seen = jnp.zeros((1, size if name == "encoder" else latent_dim), x.dtype)
            label = jnp.zeros((1, num_classes), x.dtype)
            return nets[name].init(
                keys[name], seen, label if name in ("inference", "generator") else None
            )

        params = {name: init_net(name) for name in nets}
        return {
            "m1": {name: params[name] for name in ("encoder", "decoder")},
            "m2": {name: params[name] for name in m2_names},
            "spread": jnp.zeros(latent_dim, x.dtype),
        }

    def run(params: Params, name: str, x: Array, label: Array | None = None) -> Array:
        group = params["m2"] if name in m2_names else params["m1"]
        return nets[name].apply(group[name], x, label)

    def posterior(params: Params, x: Array) -> tuple[Array, Array]:
        mean, log_variance = jnp.split(run(params, "encoder", x.reshape(x.shape[0], size)), 2, -1)
        return mean, log_variance

    def active(params: Params) -> Array:
        return jax.lax.stop_gradient(jnp.exp(_SPREAD_RATE * params["spread"]) > _MIN_SPREAD)

    def draw(key: Array, x: Array) -> dict[str, Array]:
        pixel_key, first_key, second_key = jax.random.split(key, 3)
        batch = x.shape[0]
        pixels = jax.random.bernoulli(pixel_key, x.reshape(batch, size))
        return {
            "pixels": pixels.astype(x.dtype),
            "noise_1": jax.random.normal(first_key, (batch, latent_dim), x.dtype),
            "noise_2": jax.random.normal(second_key, (batch, num_classes, latent_dim), x.dtype),
        }

    def m1_loss(params: Params, rows: dict[str, Array]) -> Array:
        pixels = rows["pixels"]
        mean, log_variance = posterior(params, pixels)
        logits = run(params, "decoder", _sample(rows["noise_1"], mean, log_variance))
        log_likelihood = -jnp.sum(jax.nn.softplus(logits) - pixels * logits, -1)
        spread = jnp.log(jnp.std(jax.lax.stop_gradient(mean), 0) + 1e-3)
        regression = jnp.sum((_SPREAD_RATE * params["spread"] - spread) ** 2)
        return jnp.mean(_divergence(mean, log_variance) - log_likelihood) + regression

    def m2_bounds(params: Params, noise: Array, z_1: Array) -> Array:
        """``L(z_1, y = k) [batch, K]``, with noise ``[batch, K, latent_dim]``."""

        def under(label: Array, noise: Array) -> Array:
            mean, log_variance = jnp.split(run(params, "inference", z_1, label), 2, -1)
            z_2 = _sample(noise, mean, log_variance)
            z_mean, z_log_variance = jnp.split(run(params, "generator", z_2, label), 2, -1)
            log_normal = -0.5 * (
                math.log(2 * math.pi)
                + z_log_variance
                + (z_1 - z_mean) ** 2 * jnp.exp(-z_log_variance)
            )
            kept = jnp.where(active(params), log_normal, 0.0)
            return jnp.sum(kept, -1) - _divergence(mean, log_variance) - math.log(num_classes)

        classes = jnp.eye(num_classes, dtype=z_1.dtype)[:, None]
        return jax.vmap(under, in_axes=(0, 1), out_axes=1)(classes, noise)

    def m2_loss(
        params: Params,
        rows: dict[str, Array],
        label: Array,
        labelled_weight: Array,
        classification_weight: float,
    ) -> tuple[Array, Array]:
        z_1 = _sample(rows["noise_1"], *posterior(params, rows["pixels"]))
        z_1 = jax.lax.stop_gradient(jnp.where(active(params), z_1, 0.0))
        log_q = jax.nn.log_softmax(run(params, "classifier", z_1), -1)
        bounds = m2_bounds(params, rows["noise_2"], z_1)
        known = label >= 0
        index = jnp.maximum(label, 0)[:, None]
        labelled = jnp.take_along_axis(bounds, index, -1)[:, 0]
        unlabelled = jnp.sum(jnp.exp(log_q) * (bounds - log_q), -1)
        cross_entropy = -jnp.mean(labelled_weight * jnp.take_along_axis(log_q, index, -1)[:, 0])
        weights = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params["m2"]))
        loss = -jnp.mean(jnp.where(known, labelled, unlabelled)) + 0.5 * weights / num_train
        return loss + classification_weight * cross_entropy, cross_entropy

    def loss(
        params: Params,
        rows: dict[str, Array],
        label: Array,
        labelled_weight: Array,
        step: Array,
        classification_weight: float,
    ) -> tuple[Array, dict[str, Array]]:
        total, cross_entropy = jax.lax.cond(
            step < m1_steps,
            lambda: (m1_loss(params, rows), jnp.zeros((), rows["pixels"].dtype)),
            lambda: m2_loss(params, rows, label, labelled_weight, classification_weight),
        )
        return total, {"loss": total, "cross_entropy": cross_entropy}

    def log_posterior(params: Params, x: Array) -> Array:
        mean, _ = posterior(params, x)
        z_1 = jnp.where(active(params), mean, 0.0)
        return jax.nn.log_softmax(run(params, "classifier", z_1), -1)

    return StackedVAE(num_classes, init, draw, loss, log_posterior)


def _sample(noise: Array, mean: Array, log_variance: Array) -> Array:
    return mean + jnp.exp(0.5 * log_variance) * noise


def _divergence(mean: Array, log_variance: Array) -> Array:
    """``KL(N(mean, exp(log_variance)) || N(0, 1)) [batch]``."""
    return 0.5 * jnp.sum(mean**2 + jnp.exp(log_variance) - 1.0 - log_variance, -1)

"""The semi-conditional normalizing flow: one body without labels, one head per label."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, get_args

import jax
import jax.numpy as jnp

from scnf_jax.bijectors.base import Array, Bijector, Event, Params
from scnf_jax.densities import Density, diagonal_normal
from scnf_jax.options import check_choice, check_positive

_Named = Literal["equal", "learned"]
ClassProbs = _Named | Sequence[float]
_CLASS_LOGIT_SCALE = 4.0  # so that steps of the size that other parameters take reach rare classes


class Latents(NamedTuple):
    """What an object becomes.

    Attributes:
      z_h: the head's latent under the label used; what the object is beside its class.
      z_aux: tuple of the latents that the body factored out before the head.
      z_f: the body's last latent, the head's input; carries the class.
    """

    z_h: Event
    z_aux: tuple[Array, ...]
    z_f: Array


class _Sample(Protocol):
    def __call__(
        self, params: Params, key: Array, label: Array, temperature: float = 1.0
    ) -> Array: ...


class SemiConditionalFlow(NamedTuple):
    """A joint density over objects and labels, as pure functions.

    ``x`` is ``[batch, *event]``; labels are integers ``[batch]``, or one integer for
    the whole batch, with -1 for "not known"; densities are in nats on the scale of ``x``.

    Attributes:
      body: the bijector that sees no label.
      head: the bijector that sees the label as context.
      num_classes: K.
      init: ``(key, x) -> params``, a dict with keys ``body``, ``head``, ``base`` and,
        with a learned embedding, ``label_embedding``; with a learned p(y), ``class_logits``.
      log_joint: ``(params, x) -> [batch, K]``, ``log p(x, y = k)``.
      log_prob: ``(params, x, label=None) -> [batch]``: ``log p(x, y = label)`` where
        ``label >= 0``, the exact marginal ``log p(x)`` where it is -1 or None.
      log_posterior: ``(params, x) -> [batch, K]``, ``log p(y = k | x)``.
      log_class_probs: ``params -> [K]``, ``log p(y = k)``.
      encode: ``(params, x, label=None) -> Latents``. Where the label is -1 or None, the
        object is encoded under its most likely label.
      decode: ``(params, latents, label) -> x``; from ``z_h`` and ``z_aux`` alone. With
        another label than ``encode`` had, the object is relabelled.
      sample: ``(params, key, label, temperature=1.0) -> x``, one object a label of
        ``label [batch]``; -1 draws the label from p(y).
      sample_and_log_prob: ``(params, key, label) -> (x, log p(x, y = label))``, in one pass.
    """

    body: Bijector
    head: Bijector
    num_classes: int
    init: Callable[[Array, Array], Params]
    log_joint: Callable[[Params, Array], Array]
    log_prob: Callable[..., Array]
    log_posterior: Callable[[Params, Array], Array]
    log_class_probs: Callable[[Params], Array]
    encode: Callable[..., Latents]
    decode: Callable[[Params, Latents, Array], Array]
    sample: _Sample
    sample_and_log_prob: Callable[[Params, Array, Array], tuple[Array, Array]]


def select_label(log_joint: Array, label: Array | None) -> Array:
    """``log p(x, y = label)``, or the marginal where the label is -1 or None.

    Args:
      log_joint: ``[batch, K]``, ``log p(x, y = k)``.
      label: integers ``[batch]`` or one integer, with -1 for "not known"; or None.

    Returns:
      ``[batch]``.
    """
    marginal = jax.nn.logsumexp(log_joint, -1)
    if label is None:
        return marginal
    label = jnp.broadcast_to(label, marginal.shape)
    given = jnp.take_along_axis(log_joint, jnp.maximum(label, 0)[:, None], -1)[:, 0]
    return jnp.where(label < 0, marginal, given)


def semi_conditional_flow(
    body: Bijector,
    head: Bijector,
    num_classes: int,
    *,
    embed_labels: bool = False,
    class_probs: ClassProbs = "equal",
    density: Density | None = None,
    label_batch: int = 128,
) -> SemiConditionalFlow:
    r"""Joins a body and a head into a classifier, a density and a sampler.

    .. math::
        \log p(x, y) &= \log|\det \mathrm{body}| + \log p(z_{aux})
            + \log|\det \mathrm{head}_y| + \log p(z_h) + \log p(y) \\
        \log p(x) &= \mathrm{logsumexp}_y \log p(x, y), \qquad
        \log p(y|x) = \mathrm{log\,softmax}_y \log p(x, y)

    The body runs once; the head is vmapped over all K labels.

    Args:
      body: bijector from ``x`` to ``z_f``, or to a tuple whose last entry is ``z_f``
        and whose others are ``z_aux`` (as :func:`~scnf_jax.bijectors.multiscale` gives).
      head: bijector on ``z_f`` whose context, ``[1, C]`` or ``[batch, C]``, is the label.
      num_classes: K.
      embed_labels: whether the context is a learned row per label, which starts as the
        one-hot row, instead of the one-hot row itself.
      class_probs: p(y): ``equal``, 1/K each; K positive numbers with sum 1, fixed; or ``learned``
        with all else, from 1/K each on. Objects without a label have a part in that by
        ``log p(x)``, so that it need not be the share of a class among the labels.
      density: of the latents; default :func:`~scnf_jax.densities.diagonal_normal`.
      label_batch: labels that are mapped at a time. Above it, slices bound the memory, of
        gradients too, which compute every slice twice.

    Returns:
      The model; see :class:`SemiConditionalFlow`.

    Raises:
      ValueError: if ``num_classes < 1`` or ``label_batch < 1``, or ``class_probs`` is another
        word, has another length, a number that is not positive, or another sum; at trace time,
        where ``body`` gives tuples inside of its tuple, or a tuple of one.

    References:
      Atanov et al. 2019, "Semi-Conditional Normalizing Flows for Semi-Supervised
      Learning", section 3, https://arxiv.org/abs/1905.00505
    """
    if num_classes < 1:
        raise ValueError(f"semi_conditional_flow: expected num_classes >= 1, got {num_classes}")
    check_positive("semi_conditional_flow: label_batch", label_batch)
    class_probs = checked_class_probs(class_probs, num_classes)
    base = density if density is not None else diagonal_normal()

    # What a program calls several times, for several views say, is traced once.
    body, head = (part._replace(forward=jax.jit(part.forward)) for part in (body, head))

    def embedding(params: Params, dtype: jnp.dtype) -> Array:
        return params["label_embedding"] if embed_labels else jnp.eye(num_classes, dtype=dtype)

    def log_class_probs(params: Params) -> Array:
        if class_probs == "learned":
            return jax.nn.log_softmax(_CLASS_LOGIT_SCALE * params["class_logits"])
        if class_probs == "equal":
            return jnp.full(num_classes, -math.log(num_classes))
        return jnp.array([math.log(p) for p in class_probs])

    def run_body(params: Params, x: Array) -> tuple[Array, tuple[Array, ...], Array]:
        z, log_det = body.forward(params["body"], x)
        if isinstance(z, tuple) and len(z) < 2:
            raise ValueError(
                "semi_conditional_flow: expected a body with one array, or a tuple of two or more, "
                f"got a tuple of {len(z)}"
            )
        *z_aux, z_f = z if isinstance(z, tuple) else (z,)
        if any(isinstance(part, tuple) for part in (*z_aux, z_f)):
            raise ValueError(
                "semi_conditional_flow: expected a body with one array a level, got a multiscale "
                "inside of another; give all levels to one"
            )
        return z_f, tuple(z_aux), log_det

    def init(key: Array, x: Array) -> Params:
        x = jnp.asarray(x)
        keys = dict(zip(("body", "head", "base"), jax.random.split(key, 3), strict=True))
        params: dict[str, Params] = {"body": body.init(keys["body"], x)}
        if embed_labels:
            params["label_embedding"] = jnp.eye(num_classes, dtype=x.dtype)
        if class_probs == "learned":
            params["class_logits"] = jnp.zeros(num_classes, x.dtype)
        z_f, z_aux, _ = run_body(params, x)
        context = embedding(params, x.dtype)[:1]
        params["head"] = head.init(keys["head"], z_f, context)
        z_h = jax.eval_shape(head.forward, params["head"], z_f, context)[0]
        aux_key, head_key = jax.random.split(keys["base"])
        params["base"] = {"aux": base.init(aux_key, z_aux), "head": base.init(head_key, z_h)}
        return params

    def under_every_label(
        params: Params, z_f: Array, z_aux: tuple[Array, ...], log_det: Array
    ) -> Array:
        if z_aux:
            log_det = log_det + base.log_prob(params["base"]["aux"], z_aux)

        def under(context: Array) -> Array:
            z_h, head_log_det = head.forward(params["head"], z_f, context[None])
            return head_log_det + base.log_prob(params["base"]["head"], z_h)

        contexts = embedding(params, z_f.dtype)
        if num_classes > label_batch:
            # Without the checkpoint a gradient would keep the activations of all slices.
            sliced = jax.checkpoint(under)
            given_label = jax.lax.map(sliced, contexts, batch_size=label_batch)
        else:
            given_label = jax.vmap(under)(contexts)
        return log_det[:, None] + given_label.T + log_class_probs(params).astype(z_f.dtype)

    def log_joint(params: Params, x: Array) -> Array:
        return under_every_label(params, *run_body(params, x))

    def log_prob(params: Params, x: Array, label: Array | None = None) -> Array:
        return select_label(log_joint(params, x), label)

    def log_posterior(params: Params, x: Array) -> Array:
        return jax.nn.log_softmax(log_joint(params, x), -1)

    def context_of(params: Params, label: Array, dtype: jnp.dtype) -> Array:
        # Of what is no class there is none: NaN, rather than the nearest or the last one's.
        rows = embedding(params, dtype).at[label]
        return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

    def encode(params: Params, x: Array, label: Array | None = None) -> Latents:
        z_f, z_aux, log_det = run_body(params, x)
        label = jnp.broadcast_to(-1 if label is None else label, x.shape[:1])
        likely = jnp.argmax(under_every_label(params, z_f, z_aux, log_det), -1)
        label = jnp.where(label < 0, likely, label)
        z_h, _ = head.forward(params["head"], z_f, context_of(params, label, z_f.dtype))
        return Latents(z_h, z_aux, z_f)

    def decode_with_log_det(params: Params, latents: Latents, label: Array) -> tuple[Array, Array]:
        leaf = jax.tree.leaves(latents.z_h)[0]
        label = jnp.broadcast_to(label, leaf.shape[:1])
        context = context_of(params, label, leaf.dtype)
        z_f, head_log_det = head.inverse(params["head"], latents.z_h, context)
        z = (*latents.z_aux, z_f) if latents.z_aux else z_f
        x, body_log_det = body.inverse(params["body"], z)
        return x, head_log_det + body_log_det

    def decode(params: Params, latents: Latents, label: Array) -> Array:
        return decode_with_log_det(params, latents, label)[0]

    def draw(params: Params, key: Array, label: Array, temperature: float) -> tuple[Latents, Array]:
        label_key, aux_key, head_key = jax.random.split(key, 3)
        label = jnp.atleast_1d(jnp.asarray(label))
        drawn = jax.random.categorical(label_key, log_class_probs(params), shape=label.shape)
        num = label.shape[0]
        z_aux = base.sample(params["base"]["aux"], aux_key, num, temperature)
        z_h = base.sample(params["base"]["head"], head_key, num, temperature)
        z_f = jax.tree.leaves(z_h)[0]  # decode does not read it
        return Latents(z_h, z_aux, z_f), jnp.where(label < 0, drawn, label)

    def sample(params: Params, key: Array, label: Array, temperature: float = 1.0) -> Array:
        latents, label = draw(params, key, label, temperature)
        return decode(params, latents, label)

    def sample_and_log_prob(params: Params, key: Array, label: Array) -> tuple[Array, Array]:
        latents, label = draw(params, key, label, 1.0)
        x, log_det = decode_with_log_det(params, latents, label)
        log_p = base.log_prob(params["base"]["head"], latents.z_h) - log_det
        if latents.z_aux:
            log_p = log_p + base.log_prob(params["base"]["aux"], latents.z_aux)
        return x, log_p + log_class_probs(params).astype(x.dtype)[label]

    return SemiConditionalFlow(
        body,
        head,
        num_classes,
        init,
        log_joint,
        log_prob,
        log_posterior,
        log_class_probs,
        encode,
        decode,
        sample,
        sample_and_log_prob,
    )


def checked_class_probs(class_probs: ClassProbs, num_classes: int) -> _Named | tuple[float, ...]:
    """``class_probs`` of :func:`semi_conditional_flow`, checked, so that it can be hashed.

    Raises:
      ValueError: for another word, or other than K positive numbers with sum 1.
    """
    if isinstance(class_probs, str):
        check_choice("class_probs", class_probs, get_args(_Named))
        return class_probs
    expected = (
        f"class_probs: expected 'equal', 'learned' or {num_classes} positive numbers with sum 1, "
        "one a class in their order, got"
    )
    try:
        if isinstance(class_probs, Mapping):
            raise TypeError
        probs = tuple(float(p) for p in class_probs)  # a sum in float32 would be off for many
    except (TypeError, ValueError):
        raise ValueError(f"{expected} {class_probs!r}") from None
    fits = len(probs) == num_classes and all(p > 0 for p in probs)
    if not fits or abs(sum(probs) - 1.0) > 1e-6:
        least = min(probs, default=0.0)
        raise ValueError(
            f"{expected} {len(probs)} with sum {sum(probs):.9g}, the least {least:.9g}"
        )
    return probs

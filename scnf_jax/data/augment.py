"""Random views of images, drawn on the device inside the training step."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

Array = jax.Array


def dequantize(key: Array, x: Array, num_levels: int | None) -> Array:
    """Adds uniform noise to grey levels: ``(v + U) / num_levels``, in [0, 1).

    Args:
      key: of the noise.
      x: grey levels ``[batch, H, W, C]``; vectors, where ``num_levels`` is None, pass.
      num_levels: how many grey levels there are.

    Returns:
      float32, shaped like ``x``.

    References:
      Theis, van den Oord, Bethge 2016, "A note on the evaluation of generative models",
      section 3.1, https://arxiv.org/abs/1511.01844
    """
    x = x.astype(jnp.float32)
    if num_levels is None:
        return x
    noise = jax.random.uniform(key, x.shape, jnp.float32)
    # (v + U) rounds up to v + 1 in float32 for U next to 1; keep the top level below 1.
    return jnp.minimum((x + noise) / num_levels, 1.0 - jnp.finfo(jnp.float32).epsneg)


def middle(x: Array, num_levels: int) -> Array:
    """Grey levels without noise: ``(v + 1/2) / num_levels``, float32, shaped like ``x``."""
    return (x.astype(jnp.float32) + 0.5) / num_levels


def random_view(
    key: Array,
    images: Array,
    translate: int = 0,
    shift: float = 0.0,
    rotate: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
    elastic: float = 0.0,
) -> Array:
    """Moves, rotates, scales, shears and bends every image by amounts of its own.

    ``translate`` alone moves grey levels without changing them. With the others, values
    between pixels are interpolated linearly and rounded to grey levels. Outside of the
    image is 0.

    Args:
      key: of the draws, uniform in plus or minus the bounds below.
      images: grey levels ``[batch, H, W, C]``.
      translate: bound in whole pixels, each axis.
      shift: bound in pixels, each axis.
      rotate: bound in degrees.
      scale: bound of the logarithm of the factor, each axis.
      shear: bound of the slope.
      elastic: bound in pixels of displacements, drawn at 4 x 4 points and interpolated
        smoothly between them.

    Returns:
      float32 grey levels, shaped like ``images``.

    References:
      Simard, Steinkraus, Platt 2003, "Best Practices for Convolutional Neural Networks
      Applied to Visual Document Analysis", section 2 (elastic distortions)
    """
    batch, height, width, _ = images.shape
    bounds = jnp.array([shift, shift, jnp.deg2rad(rotate), scale, scale, shear], jnp.float32)
    amounts = jax.random.uniform(key, (batch, 6), jnp.float32, -1.0, 1.0) * bounds
    whole_key, elastic_key = jax.random.fold_in(key, 1), jax.random.fold_in(key, 2)
    whole = jax.random.randint(whole_key, (batch, 2), -translate, translate + 1)
    amounts = amounts.at[:, :2].add(whole)
    center = jnp.array([(height - 1) / 2, (width - 1) / 2], jnp.float32)
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    grid = jnp.stack([rows, columns], -1) - center
    bends = jnp.zeros((batch, 1, 1, 2), jnp.float32)
    if elastic:
        drawn = jax.random.uniform(elastic_key, (batch, 4, 4, 2), jnp.float32, -1.0, 1.0)
        bends = elastic * jax.image.resize(drawn, (batch, height, width, 2), "cubic")

    def view(image: Array, amount: Array, bend: Array) -> Array:
        sine, cosine = jnp.sin(amount[2]), jnp.cos(amount[2])
        rotation = jnp.array([[cosine, -sine], [sine, cosine]])
        slant = jnp.array([[1.0, amount[5]], [0.0, 1.0]])
        coordinates = (grid @ rotation @ slant) * jnp.exp(amount[3:5]) + center + amount[:2] + bend

        def channel(plane: Array) -> Array:
            return map_coordinates(plane, [coordinates[..., 0], coordinates[..., 1]], order=1)

        return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)

    return jnp.round(jax.vmap(view)(images.astype(jnp.float32), amounts, bends))

"""Bilinear resizing whose sizes are data: one compiled program for images of any size.

An image lies in the upper left corner of a canvas. The canvas has a fixed size, what it
holds has not, and what lies outside never counts.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def resize_inside(x: jax.Array, sizes: jax.Array, targets: jax.Array) -> jax.Array:
    """Resizes the corner of each canvas to another size in the same canvas.

    Half-pixel centres without antialiasing, as `resize_bilinear`: with equal numbers
    the corner of the result is equal to it up to rounding.

    Args:
      x: float [n, h, w, c].
      sizes: int32 [n, 2], height and width of the corner that holds something.
      targets: int32 [n, 2], height and width it gets; at most (h, w).

    Returns:
      [n, h, w, c] of x's type. Beyond the target the last row and column repeat.
    """

    def one(x, size, target):
        for axis in (0, 1):
            x = _resize_axis(x, axis, size[axis], target[axis])
        return x

    return jax.vmap(one)(x, sizes, targets)


def _resize_axis(x: jax.Array, axis: int, size, target) -> jax.Array:
    count = x.shape[axis]
    step = size.astype(jnp.float32) / target.astype(jnp.float32)
    at = (jnp.arange(count, dtype=jnp.float32) + 0.5) * step - 0.5
    at = jnp.clip(at, 0, (size - 1).astype(jnp.float32))
    low = jnp.floor(at)
    shape = [1] * x.ndim
    shape[axis] = count
    weight = (at - low).astype(x.dtype).reshape(shape)
    low = low.astype(jnp.int32)
    high = jnp.minimum(low + 1, size - 1)
    a, b = jnp.take(x, low, axis=axis), jnp.take(x, high, axis=axis)
    return a + (b - a) * weight

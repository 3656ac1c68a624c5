"""Bilinear and nearest resize."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def resize_bilinear(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Resizes images `[n,h,w,c]` to `[n,H,W,c]` by bilinear interpolation.

    Half-pixel centres, edges clamped, no antialiasing: `tf.image.resize` and
    PyTorch's `align_corners=False`.
    """
    n, _, _, c = x.shape
    return jax.image.resize(x, (n, *size, c), "bilinear", antialias=False)


def resize_nearest(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Resizes images `[n,h,w,c]` to `[n,H,W,c]` by the nearest pixel.

    The index rule of `tf.image.resize(..., "nearest")`: floor((i + 0.5) * h / H).
    """
    rows, columns = (_nearest(a, b) for a, b in zip(x.shape[1:3], size, strict=True))
    return x[:, rows][:, :, columns]


def _nearest(source: int, target: int) -> np.ndarray:
    # float32 as in TensorFlow, so that ties fall the same way.
    scale = np.float32(source) / np.float32(target)
    where = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * scale
    return np.minimum(np.floor(where).astype(np.int32), source - 1)

"""Bilinear resize with the corners of input and output aligned."""

from collections.abc import Sequence

import jax
import numpy as np

from eseg_jax.ops.operation import operation
from eseg_jax.ops.resize import _jit_resize


@operation
def resize_align_corners(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Resizes images by bilinear interpolation, corner pixels onto corner pixels.

    What PyTorch's `interpolate(align_corners=True)` does, and SFNet everywhere:
    output row i reads at i * (h - 1) / (H - 1); a single output row reads row 0.

    Args:
      x: `[n,h,w,c]`, any float dtype; interpolated in float32.
      size: (H, W), any.

    Returns:
      `[n,H,W,c]`, dtype of x. Differentiable in reverse mode only.
    """
    return _jit_resize(x, tuple(x.shape[1:3]), tuple(size), _corners)


def _corners(source: int, target: int) -> np.ndarray:
    """The float32 matrix `[target, source]` that interpolates one axis."""
    where = np.arange(target) * ((source - 1) / max(target - 1, 1))
    distance = np.abs(where[:, None] - np.arange(source))
    return np.maximum(1 - distance, 0).astype(np.float32)

"""Adaptive average pooling."""

import jax
import jax.numpy as jnp
import numpy as np

from eseg_jax.ops.operation import operation


@operation
def adaptive_avg_pool(x: jax.Array, bins: int) -> jax.Array:
    """Averages images `[n,h,w,c]` over a grid of bins, PyTorch's AdaptiveAvgPool2d.

    Bin i of an axis of length s holds the pixels floor(i * s / bins) to
    ceil((i + 1) * s / bins) - 1: bins overlap where they do not divide s, and repeat
    pixels where s is smaller. Two small matrices do it, so that every size, batch and
    accelerator takes the same path.

    Args:
      x: `[n,h,w,c]`, any float dtype; sums are float32.
      bins: rows and columns of the grid.

    Returns:
      `[n,bins,bins,c]` in the dtype of x.
    """
    rows, columns = (bin_averages(size, bins) for size in x.shape[1:3])
    x32 = x.astype(jnp.float32)
    y = jnp.einsum("ph,nhwc->npwc", rows, x32, precision="highest")
    y = jnp.einsum("qw,npwc->npqc", columns, y, precision="highest")
    return y.astype(x.dtype)


def bin_averages(size: int, bins: int) -> np.ndarray:
    """The matrix [bins, size] whose rows average the pixels of a bin."""
    i, pixel = np.arange(bins)[:, None], np.arange(size)[None]
    inside = (pixel >= i * size // bins) & (pixel < -(-(i + 1) * size // bins))
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)

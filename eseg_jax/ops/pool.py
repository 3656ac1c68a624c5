"""Max and average pooling."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from eseg_jax.ops.windows import Padding, out_size, pad_pairs, tap


def max_pool(
    x: jax.Array,
    *,
    window: Sequence[int] = (3, 3),
    strides: Sequence[int] = (2, 2),
    padding: Padding = "SAME",
) -> jax.Array:
    """The maximum of each window of `x` `[n,h,w,c]`; padding never wins.

    Returns:
      `[n,h',w',c]` in the dtype of x.
    """
    pads = pad_pairs(x.shape, window, strides, padding)
    size = out_size(x.shape, window, strides, pads)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
    out = None
    for i in range(window[0]):
        for j in range(window[1]):
            value = tap(x, (i, j), size, strides)
            out = value if out is None else jnp.maximum(out, value)
    return out


def avg_pool(
    x: jax.Array,
    *,
    window: Sequence[int] = (3, 3),
    strides: Sequence[int] = (2, 2),
    padding: Padding = "SAME",
) -> jax.Array:
    """The mean over the pixels of each window of `x` `[n,h,w,c]` inside the image.

    Padding is not counted (count_include_pad=False in PyTorch's terms).

    Returns:
      `[n,h',w',c]` in the dtype of x.
    """
    pads = pad_pairs(x.shape, window, strides, padding)
    size = out_size(x.shape, window, strides, pads)
    ones = np.pad(np.ones(x.shape[1:3], np.float32), pads)
    counts = sum(
        ones[i:, j:][: size[0] * strides[0] : strides[0], : size[1] * strides[1] : strides[1]][: size[0], : size[1]]
        for i in range(window[0])
        for j in range(window[1])
    )
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0))).astype(jnp.float32)
    out = sum(
        tap(padded, (i, j), size, strides)
        for i in range(window[0])
        for j in range(window[1])
    )
    return (out / counts[None, :, :, None]).astype(x.dtype)


def max_pool_reference(x, *, window=(3, 3), strides=(2, 2), padding="SAME"):
    """The library's form, with the signature of `max_pool`."""
    pads = pad_pairs(x.shape, window, strides, padding)
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0))
    )

"""Depthwise convolution."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from eseg_jax.ops.windows import Padding, out_size, pad_pairs, tap


def depthwise_conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Padding = "SAME",
    dilation: Sequence[int] = (1, 1),
) -> jax.Array:
    """Convolves each channel with its own kernel.

    Args:
      x: `[n,h,w,c]`, any float dtype.
      kernel: `[kh,kw,1,c]`, same dtype.
      strides: (rows, columns).
      padding: "SAME" (TensorFlow's rule) or ((top, bottom), (left, right)).
      dilation: distance between the taps, (rows, columns).

    Returns:
      `[n,h',w',c]` in the dtype of x.
    """
    window = kernel.shape[:2]
    pads = pad_pairs(x.shape, window, strides, padding, dilation)
    size = out_size(x.shape, window, strides, pads, dilation)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    out = 0
    for i in range(window[0]):
        for j in range(window[1]):
            offset = (i * dilation[0], j * dilation[1])
            weight = kernel[i, j].reshape(1, 1, 1, -1)
            out = out + tap(x, offset, size, strides) * weight
    return out


def depthwise_conv_reference(
    x, kernel, *, strides=(1, 1), padding="SAME", dilation=(1, 1)
):
    """The library's form, with the signature of `depthwise_conv`."""
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )

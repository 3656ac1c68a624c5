"""Dense convolution."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from eseg_jax.ops.windows import Padding, out_size, pad_pairs, tap


def conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Padding = "SAME",
    dilation: Sequence[int] = (1, 1),
) -> jax.Array:
    """Convolves an image with a dense kernel.

    Args:
      x: `[n,h,w,i]`, any float dtype.
      kernel: `[kh,kw,i,o]`, same dtype.
      strides: (rows, columns).
      padding: "SAME" (TensorFlow's rule) or ((top, bottom), (left, right)).
      dilation: distance between the taps, (rows, columns).

    Returns:
      `[n,h',w',o]` in the dtype of x.
    """
    window = kernel.shape[:2]
    pads = pad_pairs(x.shape, window, strides, padding, dilation)
    if tuple(window) == (1, 1) and pads == ((0, 0), (0, 0)):
        size = out_size(x.shape, window, strides, pads)
        return jnp.dot(tap(x, (0, 0), size, strides), kernel[0, 0])
    return conv_reference(x, kernel, strides=strides, padding=pads, dilation=dilation)


def conv_reference(x, kernel, *, strides=(1, 1), padding="SAME", dilation=(1, 1)):
    """The library's form, with the signature of `conv`."""
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )

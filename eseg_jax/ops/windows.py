"""Sliding windows: what convolution and pooling share."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

Padding = str | Sequence[Sequence[int]]
Pair = tuple[int, int]
Pairs = tuple[Pair, Pair]


def pad_pairs(
    shape: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
    dilation: Sequence[int] = (1, 1),
) -> Pairs:
    """Resolves `padding` to ((top, bottom), (left, right)) for images `[n,h,w,c]`.

    "SAME" is the TensorFlow/XLA rule: the output has ceil(size / stride) pixels and
    the odd pixel of padding goes to the bottom and the right.
    """
    if isinstance(padding, str):
        if padding != "SAME":
            raise ValueError(
                f'padding is "{padding}"; give "SAME" or ((top, bottom), (left, right))'
            )
        spans = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
        padding = lax.padtype_to_pads(shape[1:3], spans, strides, "SAME")
    (top, bottom), (left, right) = padding
    return (int(top), int(bottom)), (int(left), int(right))


def out_size(
    shape: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    pads: Pairs,
    dilation: Sequence[int] = (1, 1),
) -> Pair:
    """(height, width) of the output of a window over images `[n,h,w,c]`."""
    height, width = (
        (size + sum(pad) - (k - 1) * d - 1) // s + 1
        for size, pad, k, d, s in zip(
            shape[1:3], pads, window, dilation, strides, strict=True
        )
    )
    return height, width


def pad(x: jax.Array, pads: Pairs, value: float = 0.0) -> jax.Array:
    """Pads the rows and columns of `[n,h,w,c]`; negative padding crops."""
    (top, bottom), (left, right) = pads
    config = ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0))
    return lax.pad(x, jnp.asarray(value, x.dtype), config)


def tap(padded: jax.Array, start: Pair, size: Pair, strides: Pair) -> jax.Array:
    """What one tap of the window sees: `size` pixels from `start`, every stride."""
    n, _, _, c = padded.shape
    (y, x), (height, width), (sy, sx) = start, size, strides
    stop = (y + (height - 1) * sy + 1, x + (width - 1) * sx + 1)
    return lax.slice(padded, (0, y, x, 0), (n, *stop, c), (1, sy, sx, 1))


def sum_type(dtype: jnp.dtype) -> jnp.dtype:
    """The type sums of many values of `dtype` are kept in: at least float32."""
    return jnp.promote_types(dtype, jnp.float32)


def collect(
    term: Callable[..., jax.Array],
    values: Sequence[jax.Array],
    size: Pair,
    window: Pair,
    strides: Pair,
    pads: Pairs,
    dilation: Pair = (1, 1),
) -> jax.Array:
    """The adjoint of `tap`: sums for each input pixel over the windows that hold it.

    Input pixels are split by their phase, position modulo stride: within a phase the
    taps that reach a pixel are the same everywhere, so each phase is a sum of shifted
    slices, with no work on the zeros between the pixels of a dilated gradient.

    Args:
      term: (i, j, *slices) -> the share of tap (i, j), in the type of the sum; must
        be 0 where the slices are 0.
      values: arrays `[n,h',w',c]` over the windows' outputs; the first is a gradient.
      size: (h, w) of the input.
      window, strides, pads, dilation: of the forward window.

    Returns:
      `[n,h,w,c]`, in the `sum_type` of the gradient.
    """
    n, *out, c = values[0].shape
    zeros_type = sum_type(values[0].dtype)
    # How many windows back from its own a pixel is still held; the pixels of a phase.
    reach = [
        (k - 1) * d // s for k, d, s in zip(window, dilation, strides, strict=True)
    ]
    count = [
        -(-(length + before) // s)
        for length, (before, _), s in zip(size, pads, strides, strict=True)
    ]
    around = tuple((r, q - o) for r, q, o in zip(reach, count, out, strict=True))
    padded = [pad(value, around) for value in values]

    def phase(a, b):
        total = jnp.zeros((n, *count, c), zeros_type)
        for i in range(window[0]):
            for j in range(window[1]):
                (y, dy), (x, dx) = (
                    divmod(i * dilation[0], strides[0]),
                    divmod(j * dilation[1], strides[1]),
                )
                if (dy, dx) == (a, b):
                    start = (reach[0] - y, reach[1] - x)
                    slices = [tap(value, start, count, (1, 1)) for value in padded]
                    total = total + term(i, j, *slices)
        return total

    rows = [
        jnp.stack([phase(a, b) for b in range(strides[1])], axis=3)
        for a in range(strides[0])
    ]
    whole = jnp.stack(rows, axis=2).reshape(
        n, count[0] * strides[0], count[1] * strides[1], c
    )
    (top, _), (left, _) = pads
    return whole[:, top : top + size[0], left : left + size[1]]

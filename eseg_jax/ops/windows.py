"""Sliding windows: what convolution and pooling share."""

from collections.abc import Sequence

import jax
from jax import lax

Padding = str | Sequence[tuple[int, int]]
Pairs = tuple[tuple[int, int], tuple[int, int]]


def pad_pairs(
    shape: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
    dilation: Sequence[int] = (1, 1),
) -> Pairs:
    """Resolves `padding` to ((top, bottom), (left, right)) for an image `[n,h,w,c]`.

    "SAME" is the TensorFlow/XLA rule: the output has ceil(size / stride) pixels and
    the odd pixel of padding goes to the bottom and the right.
    """
    if padding != "SAME":
        (top, bottom), (left, right) = padding
        return (int(top), int(bottom)), (int(left), int(right))
    spans = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    rows, columns = lax.padtype_to_pads(shape[1:3], spans, strides, "SAME")
    return tuple(rows), tuple(columns)


def out_size(
    shape: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    pads: Pairs,
    dilation: Sequence[int] = (1, 1),
) -> tuple[int, int]:
    """Height and width of the output of a window over an image `[n,h,w,c]`."""
    return tuple(
        (size + sum(pad) - (k - 1) * d - 1) // s + 1
        for size, pad, k, d, s in zip(
            shape[1:3], pads, window, dilation, strides, strict=True
        )
    )


def tap(
    padded: jax.Array,
    offset: Sequence[int],
    size: Sequence[int],
    strides: Sequence[int],
) -> jax.Array:
    """The strided slice of `padded` that one tap of the window sees."""
    n, _, _, c = padded.shape
    (y, x), (h, w), (sy, sx) = offset, size, strides
    return lax.slice(
        padded,
        (0, y, x, 0),
        (n, y + (h - 1) * sy + 1, x + (w - 1) * sx + 1, c),
        (1, sy, sx, 1),
    )

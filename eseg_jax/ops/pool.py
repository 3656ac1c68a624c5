"""Max and average pooling."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from eseg_jax.ops.depthwise import depthwise_conv
from eseg_jax.ops.operation import operation
from eseg_jax.ops.windows import (
    Padding,
    collect,
    out_size,
    pad,
    pad_pairs,
    sum_type,
    tap,
)


@operation
def max_pool(
    x: jax.Array,
    *,
    window: Sequence[int] = (3, 3),
    strides: Sequence[int] = (2, 2),
    padding: Padding = "SAME",
) -> jax.Array:
    """The maximum of every window; padding never wins.

    Args:
      x: `[n,h,w,c]`, any float dtype.
      window: (rows, columns), at most 255 pixels.
      strides: (rows, columns).
      padding: "SAME" (TensorFlow's rule) or ((top, bottom), (left, right)), smaller
        than the window.

    Returns:
      `[n,h',w',c]`, dtype of x. Differentiable in reverse mode only; where values
      tie, the first of the window gets the gradient, as in the library's form and in
      PyTorch.
    """
    window, strides = tuple(window), tuple(strides)
    pads = pad_pairs(x.shape, window, strides, padding)
    return _jit_max_pool(x, x.shape[1:3], window, strides, pads)


def max_pool_reference(x, *, window=(3, 3), strides=(2, 2), padding="SAME"):
    """The library's form, with the signature of `max_pool`."""
    pads = pad_pairs(x.shape, window, strides, padding)
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0))
    )


@operation
def avg_pool(
    x: jax.Array,
    *,
    window: Sequence[int] = (3, 3),
    strides: Sequence[int] = (2, 2),
    padding: Padding = "SAME",
) -> jax.Array:
    """The mean over those pixels of every window that lie inside the image.

    PyTorch's `count_include_pad=False`. Arguments and result as in `max_pool`; sums
    are float32 or better.
    """
    window, strides = tuple(window), tuple(strides)
    pads = pad_pairs(x.shape, window, strides, padding)
    dtype = sum_type(x.dtype)
    ones = jnp.ones((*window, 1, x.shape[-1]), dtype)
    total = depthwise_conv(x.astype(dtype), ones, strides=strides, padding=pads)
    rows, columns = (
        _pixels_inside(*axis)
        for axis in zip(
            x.shape[1:3], total.shape[1:3], window, strides, pads, strict=True
        )
    )
    counts = (rows[:, None] * columns)[None, :, :, None]
    return (total / counts).astype(x.dtype)


def avg_pool_reference(x, *, window=(3, 3), strides=(2, 2), padding="SAME"):
    """The library's form, with the signature of `avg_pool`."""
    pads = ((0, 0), *pad_pairs(x.shape, window, strides, padding), (0, 0))

    def total(values):
        return lax.reduce_window(
            values, 0.0, lax.add, (1, *window, 1), (1, *strides, 1), pads
        )

    return (total(x.astype(jnp.float32)) / total(jnp.ones(x.shape))).astype(x.dtype)


def _pixels_inside(size, out, window, stride, pads):
    """How many pixels of each of the `out` windows along one axis are real."""
    first = np.arange(out) * stride - pads[0]
    inside = np.minimum(first + window, size) - np.maximum(first, 0)
    return inside.astype(np.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_pool(x, size, window, strides, pads):
    del size  # The backward pass wants it.
    return functools.reduce(jnp.maximum, _views(x, window, strides, pads))


def _max_pool_forward(x, size, window, strides, pads):
    out = _max_pool(x, size, window, strides, pads)
    # All that the backward pass needs is which tap won: one byte a window.
    views = _views(x, window, strides, pads)
    winner = jnp.full(out.shape, len(views) - 1, jnp.uint8)
    for index in reversed(range(len(views) - 1)):
        winner = jnp.where(views[index] == out, jnp.uint8(index), winner)
    return out, winner


def _max_pool_backward(size, window, strides, pads, winner, g):
    def share(i, j, gradients, winners):
        won = winners == jnp.uint8(i * window[1] + j)
        return jnp.where(won, gradients, 0).astype(sum_type(g.dtype))

    x_grad = collect(share, [g, winner], size, window, strides, pads)
    return (x_grad.astype(g.dtype),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
_jit_max_pool = jax.jit(_max_pool, static_argnums=(1, 2, 3, 4))


def _views(x, window, strides, pads):
    """What each tap of the window sees of x, row by row."""
    size = out_size(x.shape, window, strides, pads)
    padded = pad(x, pads, -np.inf)
    return [
        tap(padded, (i, j), size, strides)
        for i in range(window[0])
        for j in range(window[1])
    ]

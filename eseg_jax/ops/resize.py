"""Bilinear and nearest resize.

Both are linear and act on rows and columns separately: an output row is a weighted
sum of one or two input rows, an input row's gradient a weighted sum of the gradients
of the output rows that read it. Which rows and with what weights is known when the
program is built, so neither direction needs a scatter.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def resize_bilinear(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Resizes images by bilinear interpolation.

    Half-pixel centres, edges clamped, no antialiasing: what `tf.image.resize` and
    PyTorch's `interpolate(align_corners=False)` do.

    Args:
      x: `[n,h,w,c]`, any float dtype; interpolated in float32.
      size: (H, W), any.

    Returns:
      `[n,H,W,c]`, dtype of x. Differentiable in reverse mode only.
    """
    return _jit_resize(x, tuple(x.shape[1:3]), tuple(size), _bilinear)


def resize_nearest(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Resizes images to the nearest pixel.

    Output row i takes row floor((i + 0.5) * h / H), `tf.image.resize`'s rule; the
    arguments and the result are as in `resize_bilinear`.
    """
    return _jit_resize(x, tuple(x.shape[1:3]), tuple(size), _nearest)


def resize_bilinear_reference(x, size):
    """The library's form, with the signature of `resize_bilinear`."""
    n, _, _, c = x.shape
    return jax.image.resize(x, (n, *size, c), "bilinear", antialias=False)


def resize_nearest_reference(x, size):
    """The library's form, with the signature of `resize_nearest`."""
    n, _, _, c = x.shape
    return jax.image.resize(x, (n, *size, c), "nearest")


def _bilinear(source: int, target: int) -> np.ndarray:
    """The float32 matrix `[target, source]` that interpolates one axis."""
    where = (np.arange(target) + 0.5) * (source / target) - 0.5
    where = np.clip(where, 0, source - 1)
    distance = np.abs(where[:, None] - np.arange(source))
    return np.maximum(1 - distance, 0).astype(np.float32)


def _nearest(source: int, target: int) -> np.ndarray:
    """The float32 matrix `[target, source]` that picks the nearest pixel."""
    # In float32 as TensorFlow does, so that borderline pixels fall the same way.
    scale = np.float32(source) / np.float32(target)
    where = np.floor((np.arange(target, dtype=np.float32) + np.float32(0.5)) * scale)
    rows = np.minimum(where, source - 1).astype(int)
    return np.eye(source, dtype=np.float32)[rows]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _resize(x, source, target, matrix):
    rows, columns = (matrix(s, t) for s, t in zip(source, target, strict=True))
    return _apply(x, rows, columns)


def _forward(x, source, target, matrix):
    return _resize(x, source, target, matrix), None


def _backward(source, target, matrix, _, g):
    rows, columns = (matrix(s, t).T for s, t in zip(source, target, strict=True))
    return (_apply(g, rows, columns),)


_resize.defvjp(_forward, _backward)
_jit_resize = jax.jit(_resize, static_argnums=(1, 2, 3))


def _apply(x, rows, columns):
    """Multiplies the rows and columns of x `[n,h,w,c]` by `[H,h]` and `[W,w]`."""
    # Matrix units make the dense product the fastest on TPU; elsewhere the zeros of
    # the matrices, nearly all of them, are better left out.
    return lax.platform_dependent(
        x,
        tpu=functools.partial(_dense, rows=rows, columns=columns),
        default=functools.partial(_sparse, rows=rows, columns=columns),
    )


def _dense(x, *, rows, columns):
    return jnp.einsum(
        "Hh,nhwc,Ww->nHWc",
        rows.astype(x.dtype),
        x,
        columns.astype(x.dtype),
        preferred_element_type=jnp.float32,
    ).astype(x.dtype)


# Beyond so many terms a row, sums of slices are long programs and no longer faster.
_MAX_TERMS = 32


def _sparse(x, *, rows, columns):
    dtype, x = x.dtype, x.astype(jnp.float32)
    for axis, matrix in ((1, rows), (2, columns)):
        indices, weights = _nonzeros(matrix)
        if len(indices) > _MAX_TERMS:
            x = jnp.moveaxis(jnp.tensordot(x, matrix, ((axis,), (1,))), -1, axis)
        else:
            shape = [-1 if d == axis else 1 for d in range(4)]
            x = sum(
                jnp.take(x, index, axis, mode="clip") * weight.reshape(shape)
                for index, weight in zip(indices, weights, strict=True)
            )
            # Otherwise the first axis is computed again for every term of the second.
            x = lax.optimization_barrier(x)
    return x.astype(dtype)


def _nonzeros(matrix):
    """The matrix as (indices, weights), each `[terms, rows]`, padded with weight 0."""
    terms = max(int((matrix != 0).sum(1).max()), 1)
    # A stable sort keeps the columns of the nonzeros in order.
    indices = np.argsort(matrix == 0, axis=1, kind="stable")[:, :terms]
    weights = np.take_along_axis(matrix, indices, axis=1)
    return indices.T.astype(np.int32), weights.T

"""Bilinear and nearest resize.

Both are linear maps of the rows and then of the columns. On TPU they are products with
the two interpolation matrices. Elsewhere those are nearly all zeros. On GPU the few
pixels that make one of the result are gathered, forward and backward.

On CPU, and where the rows of images are split over devices, XLA does not make gathers
fast. There enlarging by a whole factor, the usual case, needs none: every output pixel
is a weighted sum of its source pixel and the two neighbours, with the same weights for
every source pixel.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from eseg_jax.ops.cpu import apart
from eseg_jax.ops.kernels import rows_are_split
from eseg_jax.ops.operation import operation
from eseg_jax.ops.windows import sum_type


@operation
def resize_bilinear(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Resizes images by bilinear interpolation.

    Half-pixel centres, edges clamped, no antialiasing: what `tf.image.resize` and
    PyTorch's `interpolate(align_corners=False)` do.

    Args:
      x: `[n,h,w,c]`, any float dtype; interpolated in float32 or better.
      size: (H, W), any.

    Returns:
      `[n,H,W,c]`, dtype of x. Differentiable in reverse mode only.
    """
    return _resize_by(_bilinear, x, size)


@operation
def resize_nearest(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Resizes images to the nearest pixel.

    Output row i takes row floor((i + 0.5) * h / H), `tf.image.resize`'s rule; the
    arguments and the result are as in `resize_bilinear`.
    """
    return _resize_by(_nearest, x, size)


def resize_bilinear_reference(x, size):
    """The library's form, with the signature of `resize_bilinear`."""
    n, _, _, c = x.shape
    return jax.image.resize(x, (n, *size, c), "bilinear", antialias=False)


def resize_nearest_reference(x, size):
    """The library's form, with the signature of `resize_nearest`."""
    n, _, _, c = x.shape
    return jax.image.resize(x, (n, *size, c), "nearest")


def _bilinear(source: int, target: int) -> np.ndarray:
    """The matrix `[target, source]` that interpolates one axis."""
    where = (np.arange(target) + 0.5) * (source / target) - 0.5
    where = np.clip(where, 0, source - 1)
    distance = np.abs(where[:, None] - np.arange(source))
    return np.maximum(1 - distance, 0)


def _nearest(source: int, target: int) -> np.ndarray:
    """The matrix `[target, source]` that picks the nearest pixel."""
    # In float32 as TensorFlow does, so that borderline pixels fall the same way.
    scale = np.float32(source) / np.float32(target)
    where = np.floor((np.arange(target, dtype=np.float32) + np.float32(0.5)) * scale)
    rows = np.minimum(where, source - 1).astype(int)
    return np.eye(source)[rows]


def _resize_by(matrix, x, size):
    source, target = tuple(x.shape[1:3]), tuple(size)
    return x if source == target else _jit_resize(x, source, target, matrix)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _resize(x, source, target, matrix):
    rows, columns = (matrix(s, t) for s, t in zip(source, target, strict=True))
    gathers = functools.partial(_gathers, rows, columns)

    def separable(x, wrap=lambda function: function):
        y = x.astype(sum_type(x.dtype))
        # Columns first leaves the wide product, or the fused pass, for the end.
        y = wrap(functools.partial(_map_axis, axis=2, matrix=columns))(y)
        y = wrap(functools.partial(_map_axis, axis=1, matrix=rows))(y)
        return y.astype(x.dtype)

    return lax.platform_dependent(
        x,
        cpu=functools.partial(separable, wrap=apart),
        tpu=functools.partial(_products, rows, columns),
        default=separable if rows_are_split() else gathers,
    )


def _forward(x, source, target, matrix):
    return _resize(x, source, target, matrix), None


def _backward(source, target, matrix, _, g):
    rows, columns = (matrix(s, t) for s, t in zip(source, target, strict=True))
    gathers = functools.partial(_gathers, rows.T, columns.T)

    def separable(g, wrap=lambda function: function):
        y = g.astype(sum_type(g.dtype))
        y = wrap(functools.partial(_map_axis_adjoint, axis=1, matrix=rows))(y)
        y = wrap(functools.partial(_map_axis_adjoint, axis=2, matrix=columns))(y)
        return y.astype(g.dtype)

    return (
        lax.platform_dependent(
            g,
            cpu=functools.partial(separable, wrap=apart),
            tpu=functools.partial(_products, rows.T, columns.T),
            default=separable if rows_are_split() else gathers,
        ),
    )


_resize.defvjp(_forward, _backward)
_jit_resize = jax.jit(_resize, static_argnums=(1, 2, 3))


def _products(rows, columns, x):
    """Multiplies the rows and columns of x `[n,h,w,c]` by `[H,h]` and `[W,w]`."""
    return jnp.einsum(
        "Hh,nhwc,Ww->nHWc",
        rows.astype(x.dtype),
        x,
        columns.astype(x.dtype),
        precision="highest",  # A TPU would round float32 logits to bfloat16.
        preferred_element_type=sum_type(x.dtype),
    ).astype(x.dtype)


def _gathers(rows, columns, x):
    """`_products` by the pixels whose weight is not 0."""
    y = x.astype(sum_type(x.dtype))
    steps = [(2, columns), (1, rows)]
    if len(rows) < rows.shape[1]:
        steps.reverse()  # What lies between them is the smaller.
    # Without the barrier XLA gathers along both axes again in each use of the result.
    y = lax.optimization_barrier(_gather(y, *steps[0]))
    return _gather(y, *steps[1]).astype(x.dtype)


def _gather(x, axis, matrix):
    """Multiplies one axis of x by `[target, source]`, nonzero in a band."""
    source = matrix.shape[1]
    used = matrix > 1e-7  # less is a rounding error of the position
    used[:, 0] |= ~used.any(axis=1)  # of none, the weight of the first is 0 as well
    first = np.argmax(used, axis=1)
    last = source - 1 - np.argmax(used[:, ::-1], axis=1)
    pixels = first[:, None] + np.arange(np.max(last - first) + 1)
    weights = np.pad(matrix, ((0, 0), (0, pixels.shape[1])))
    weights = np.take_along_axis(weights, pixels, axis=1)
    found = jnp.take(x, np.minimum(pixels, source - 1), axis)
    shape = [1] * axis + [*pixels.shape] + [1] * (x.ndim - axis - 1)
    return jnp.sum(found * weights.reshape(shape).astype(x.dtype), axis=axis + 1)


def _map_axis(x, axis, matrix):
    """Multiplies one axis of x by `[target, source]`."""
    weights = _neighbour_weights(matrix)
    if weights is None:
        return _product(x, axis, matrix)
    shape = list(x.shape)
    shape[axis] = len(matrix)
    spread = [-1 if d == axis + 1 else 1 for d in range(x.ndim + 1)]
    out = sum(
        jnp.expand_dims(x, axis + 1) * weight.reshape(spread).astype(x.dtype)
        for x, weight in zip(_neighbours(x, axis), weights, strict=True)
        if weight.any()
    )
    return out.reshape(shape)


def _map_axis_adjoint(g, axis, matrix):
    """Multiplies one axis of g by the transpose of `[target, source]`."""
    weights = _neighbour_weights(matrix)
    if weights is None:
        return _product(g, axis, matrix.T)
    source = matrix.shape[1]
    blocks = g.reshape(*g.shape[:axis], source, -1, *g.shape[axis + 1 :])
    shares = jnp.moveaxis(_product(blocks, axis + 1, weights), axis + 1, 0)
    seen = jax.ShapeDtypeStruct(shares.shape[1:], shares.dtype)
    return jax.linear_transpose(lambda x: _neighbours(x, axis), seen)(list(shares))[0]


def _neighbour_weights(matrix):
    """`[3, S]` weights of the pixel before, the pixel itself and the one after.

    None unless the matrix enlarges by a whole factor S with these weights for every
    pixel, the first and last repeated beyond the edge.
    """
    target, source = matrix.shape
    if source < 3 or target % source:
        return None
    scale = target // source
    weights = matrix[scale : 2 * scale, :3]
    pixels, phases = np.divmod(np.arange(target), scale)
    repeated = np.zeros_like(matrix)
    for move in (-1, 0, 1):
        columns = np.clip(pixels + move, 0, source - 1)
        np.add.at(repeated, (np.arange(target), columns), weights[phases, move + 1])
    return weights.T if np.allclose(repeated, matrix, rtol=0, atol=1e-6) else None


def _neighbours(x, axis):
    """x moved by one pixel, x itself, and x moved by one pixel the other way."""
    size = x.shape[axis]
    first, last = (lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, size - 1))
    before = jnp.concatenate([first, lax.slice_in_dim(x, 0, size - 1, axis=axis)], axis)
    after = jnp.concatenate([lax.slice_in_dim(x, 1, size, axis=axis), last], axis)
    return [before, x, after]


def _product(x, axis, matrix):
    """Multiplies one axis of x by `[target, source]`, the axes before it as a batch."""
    batch, rest = x.shape[:axis], x.shape[axis + 1 :]
    matrices = jnp.broadcast_to(matrix.astype(x.dtype), (*batch, *matrix.shape))
    rows = x.reshape(*batch, x.shape[axis], -1)
    out = jnp.matmul(matrices, rows, precision="highest")
    return out.reshape(*batch, len(matrix), *rest)

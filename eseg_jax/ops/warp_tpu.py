"""The bilinear warp as TPU kernels: one image's map lies in VMEM, points stream by.

A TPU has no fast gather, but reads eight rows of VMEM from any row on in one cycle.
So the map is kept as a table with a row of C lanes for each pixel, whose 32-bit words
hold the bfloat16 features of a pixel and of the one below it: the four taps of a point
are two rows in turn, and one read brings them. Reads of four points are joined to one
register; 32 points are 128 taps, whose weighting is a product with a block-diagonal
matrix on the matrix unit, forward (weights times taps) as well as backward (weights
times cotangents, cotangents times taps). What remains backward is adding four rows to
an accumulator in VMEM for each point.

Measured by the length of the compiled loops: benchmarks/warp.md.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

_GROUP = 32  # points whose 128 taps fill the matrix unit
_ROW = 128  # points of one trip of the loop, a row of the index
_MARGIN = 8  # empty rows before each row of pixels, and around the table
_LANES = 128
# Points that share no accumulator follow each other: an addition need not wait for the
# one before it.
_ACCUMULATORS = 2
_MIB = 2**20
# Of the chips' VMEM; on others, which have 16 MiB or are unknown, nothing fits.
_VMEM = {
    "TPU v5 lite": 128 * _MIB,
    "TPU v5": 64 * _MIB,
    "TPU v6 lite": 128 * _MIB,
    "TPU7x": 64 * _MIB,
}


def fits(features: jax.Array, fraction: jax.Array, device_kind: str) -> bool:
    """Whether the kernels of a chip take features [n, h, w, c] and such fractions."""
    _, h, w, c = features.shape
    return (
        (features.dtype, fraction.dtype) == (jnp.bfloat16, jnp.float32)
        and (c % _LANES == 0 or c == _LANES // 2)
        and _vmem(h, w) <= _VMEM.get(device_kind, 0)
    )


def _vmem(h, w):
    """Bytes of VMEM for the backward kernel."""
    table = _table_rows(h, _aligned(w)) * _LANES * 4
    # Two maps of bfloat16, in and out, each twice so that copying does not wait.
    maps = 2 * 2 * h * _aligned(w, 16) * _LANES * 2
    return table * (1 + 2 * _ACCUMULATORS) + maps + 8 * _MIB


def forward(features, row, column, up, left, *, interpret=False):
    """Samples features [n, h, w, c] bfloat16 at points [n, H, W].

    Args:
      features: such that `fits`.
      row, column: int32, the pixel at or before each point, -1 to size - 1.
      up, left: float32, how far the point is from that pixel, 0 to 1.
      interpret: whether to run on another platform, slowly.

    Returns:
      [n, H, W, c] bfloat16. What is no number among the features spreads to the
      points that are computed together.
    """
    n, h, w, c = features.shape
    spec = _Specs(features, row)
    features = _pad_columns(features)
    output = pl.pallas_call(
        _forward_kernel,
        grid=spec.grid,
        in_specs=[spec.index, spec.weights, spec.features],
        out_specs=spec.points,
        out_shape=jax.ShapeDtypeStruct((n, spec.count, c), features.dtype),
        scratch_shapes=[spec.slices, spec.table],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=_vmem(h, w)),
        interpret=interpret,
        name="warp_forward",
    )(*_points(row, column, up, left, spec), features)
    return output[:, : row[0].size].reshape(*row.shape, c)


def backward(features, row, column, up, left, cotangent, *, interpret=False):
    """The gradient of features and what those of up and left are made of.

    Args:
      features, row, column, up, left, interpret: as in `forward`.
      cotangent: [n, H, W, c].

    Returns:
      The gradient [n, h, w, c] bfloat16, of float32 sums; and of each tap, rows before
      columns, the sum over channels of tap times cotangent, [n, H, W] float32.
    """
    n, h, w, c = features.shape
    spec = _Specs(features, row)
    features = _pad_columns(features)
    index, weights = _points(row, column, up, left, spec)
    cotangent = _pad_points(cotangent.astype(features.dtype).reshape(n, -1, c), spec)
    d_features, products = pl.pallas_call(
        _backward_kernel,
        grid=spec.grid,
        in_specs=[spec.index, spec.weights, spec.features, spec.points],
        out_specs=[spec.features, spec.products],
        out_shape=[
            jax.ShapeDtypeStruct(features.shape, features.dtype),
            jax.ShapeDtypeStruct((n, spec.grid[1], *weights.shape[1:]), jnp.float32),
        ],
        scratch_shapes=[
            spec.slices,
            spec.slices,
            spec.table,
            *[spec.accumulator] * _ACCUMULATORS,
        ],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=_vmem(h, w)),
        interpret=interpret,
        name="warp_backward",
    )(index, weights, features, cotangent)
    # [points, taps] -> [taps, points] as a product with a permutation: a transpose of
    # four numbers each takes longer than both kernels.
    order = jnp.arange(4 * _ROW)
    order = jax.nn.one_hot(order // 4 + order % 4 * _ROW, 4 * _ROW)
    products = jnp.einsum(
        "ncri,ij->nrj", products, order, precision=lax.Precision.HIGHEST
    )
    products = jnp.split(products, 4, axis=-1)
    products = [x.reshape(n, -1)[:, : row[0].size].reshape(row.shape) for x in products]
    taps = [products[_tap(dy, dx)] for dy in (0, 1) for dx in (0, 1)]
    return d_features[:, :, :w], taps


def _aligned(size, to=8):
    return -(-size // to) * to


def _tap(dy, dx):
    """Order of the four taps of a point: the word's halves are two rows of pixels."""
    return 2 * dx + dy


def _table_rows(h, w):
    return (h + 1) * (w + _MARGIN) + 2 * _MARGIN


class _Specs:
    """Shapes of the blocks: grid over images, lanes, and tiles of points."""

    def __init__(self, features, row):
        n, h, w, c = features.shape
        w, lanes = _aligned(w), min(c, _LANES)
        tile = min(1024, _aligned(row[0].size, _ROW))
        self.width = w + _MARGIN
        self.count = _aligned(row[0].size, tile)
        self.grid = (n, c // lanes, self.count // tile)
        rows = tile // _ROW
        self.index = pl.BlockSpec(
            (None, rows, _ROW), lambda i, c, t: (i, t, 0), memory_space=pltpu.SMEM
        )
        self.weights = pl.BlockSpec((None, rows, 4 * _ROW), lambda i, c, t: (i, t, 0))
        self.features = pl.BlockSpec((None, h, w, lanes), lambda i, c, t: (i, 0, 0, c))
        self.points = pl.BlockSpec((None, tile, lanes), lambda i, c, t: (i, t, c))
        self.products = pl.BlockSpec(
            (None, None, rows, 4 * _ROW), lambda i, c, t: (i, c, t, 0)
        )
        # Rows of one register's width: only those can be picked while running.
        self.slices = pltpu.VMEM((_ROW // _GROUP, rows, 4 * _GROUP), jnp.float32)
        self.table = pltpu.VMEM((_table_rows(h, w), lanes), jnp.int32)
        self.accumulator = pltpu.VMEM((2 * _table_rows(h, w), lanes), jnp.float32)


def _pad_columns(features):
    w = features.shape[2]
    return jnp.pad(features, ((0, 0), (0, 0), (0, _aligned(w) - w), (0, 0)))


def _pad_points(x, spec):
    widths = [(0, 0)] * x.ndim
    widths[1] = (0, spec.count - x.shape[1])
    return jnp.pad(x, widths)


def _points(row, column, up, left, spec):
    """Rows of the table [n, P / 128, 128] and weights of taps [n, P / 128, 512]."""
    n = row.shape[0]
    # Points that only fill a tile read an empty row.
    index = (row + 1) * spec.width + column + 2 * _MARGIN
    index = _pad_points(index.reshape(n, -1), spec).reshape(n, -1, _ROW)
    index = jnp.maximum(index, _MARGIN)
    up, left = (
        jnp.repeat(_pad_points(x.reshape(n, -1), spec).reshape(n, -1, _ROW), 4, axis=-1)
        for x in (up, left)
    )
    tap = lax.broadcasted_iota(jnp.int32, up.shape, 2) & 3
    weights = jnp.where(tap >> 1 == 1, left, 1 - left) * jnp.where(
        tap & 1 == 1, up, 1 - up
    )
    return index, weights


def _forward_kernel(index, weights, features, output, slices, table):
    @pl.when(pl.program_id(2) == 0)
    def _():
        _fill(table, features)

    _slice(slices, weights)

    def body(row, _):
        for first in range(0, _ROW, _GROUP):
            taps = _gather(table, index, row, first)
            halves = _split(_diagonal(slices, row, first))
            # Two products with halves of the weights: float32 weights, all but 2^-17.
            both = jnp.dot(halves, taps, preferred_element_type=jnp.float32)
            total = both[:_GROUP] + both[_GROUP:]
            at = pl.multiple_of(row * _ROW + first, _GROUP)
            output[pl.ds(at, _GROUP), :] = total.astype(output.dtype)
        return 0

    lax.fori_loop(0, index.shape[0], body, 0)


def _backward_kernel(
    index,
    weights,
    features,
    cotangents,
    d_features,
    products,
    slices,
    product_slices,
    table,
    *accumulators,
):
    @pl.when(pl.program_id(2) == 0)
    def _():
        _fill(table, features)
        for accumulator in accumulators:
            _clear(accumulator)

    _slice(slices, weights)
    shape = (8, table.shape[1])
    upper = lax.broadcasted_iota(jnp.int32, shape, 0) < 4
    mine = _mine()

    def body(row, _):
        for first in range(0, _ROW, _GROUP):
            at = pl.multiple_of(row * _ROW + first, _GROUP)
            cotangent = cotangents[pl.ds(at, _GROUP), :]
            taps = _gather(table, index, row, first)
            every = lax.dot_general(
                cotangent, taps, _CONTRACT[1], preferred_element_type=jnp.float32
            )
            product = jnp.where(mine, every, 0.0).sum(0, keepdims=True)
            product_slices[first // _GROUP, pl.ds(row, 1), :] = product
            added = lax.dot_general(
                _split(_diagonal(slices, row, first)),
                jnp.concatenate([cotangent, cotangent], axis=0),
                _CONTRACT[0],
                preferred_element_type=jnp.float32,
            )
            for pair in range(_GROUP // 2):
                # Four rows for each of two points; the other point's are zeros.
                rows = added[8 * pair : 8 * pair + 8]
                for second in (0, 1):
                    start = index[row, first + 2 * pair + second] * 2 - 4 * second
                    accumulator = accumulators[(2 * pair + second) % _ACCUMULATORS]
                    part = jnp.where(upper, *((0.0, rows) if second else (rows, 0.0)))
                    accumulator[pl.ds(start, 8), :] += part
        return 0

    lax.fori_loop(0, index.shape[0], body, 0)
    for i, columns in enumerate(_columns()):
        products[:, columns] = product_slices[i]

    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def _():
        _collect(d_features, accumulators)


# Dimension numbers that contract the first dimensions of both, and the last ones.
_CONTRACT = ((((0,), (0,)), ((), ())), (((1,), (1,)), ((), ())))


def _clear(ref):
    def body(i, _):
        at = pl.multiple_of(8 * i, 8)
        ref[pl.ds(at, 8), :] = jnp.zeros((8, ref.shape[1]), ref.dtype)
        return 0

    lax.fori_loop(0, ref.shape[0] // 8, body, 0)


def _fill(table, features):
    """Writes words of the pixel (low half) and the one below it (high half)."""
    h, w, _ = features.shape
    _clear(table)

    def body(y, _):
        # A float32's upper half is the bfloat16.
        bits = lax.bitcast_convert_type(features[y].astype(jnp.float32), jnp.int32)
        at = pl.multiple_of(2 * _MARGIN + y * (w + _MARGIN), 8)
        above, here = pl.ds(at, w), pl.ds(pl.multiple_of(at + w + _MARGIN, 8), w)
        table[above, :] = table[above, :] | bits
        table[here, :] = lax.shift_right_logical(bits, jnp.full_like(bits, 16))
        return 0

    lax.fori_loop(0, h, body, 0)


def _collect(d_features, accumulators):
    """Adds what a pixel received as the upper and as the lower tap of a word."""
    h, w, _ = d_features.shape

    def body(y, _):
        total = 0.0
        for dy in (0, 1):
            start = 2 * (2 * _MARGIN + (y + 1 - dy) * (w + _MARGIN)) + dy
            for accumulator in accumulators:
                total = total + accumulator[pl.ds(start, w, stride=2), :]
        d_features[y] = total.astype(d_features.dtype)
        return 0

    lax.fori_loop(0, h, body, 0)


def _gather(table, index, row, first):
    """Taps [128, lanes] of 32 points, four after each other."""
    sublane = lax.broadcasted_iota(jnp.int32, (8, table.shape[1]), 0)
    registers = []
    for start in range(first, first + _GROUP, 4):
        joined = table[pl.ds(index[row, start], 8), :]
        for i in range(1, 4):
            # Read from earlier on, so that the point's two rows come to their place.
            read = table[pl.ds(index[row, start + i] - 2 * i, 8), :]
            joined = jnp.where(sublane >= 2 * i, read, joined)
        registers.append(joined)
    return pltpu.bitcast(jnp.concatenate(registers, axis=0), jnp.bfloat16)


def _mine():
    """Which of 128 taps belong to which of 32 points."""
    shape = (_GROUP, 4 * _GROUP)
    point, tap = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return lax.shift_right_logical(tap, jnp.full_like(tap, 2)) == point


def _columns():
    return [pl.ds(i, 4 * _GROUP) for i in range(0, 4 * _ROW, 4 * _GROUP)]


def _slice(slices, weights):
    for i, columns in enumerate(_columns()):
        slices[i] = weights[:, columns]


def _diagonal(slices, row, first):
    """Weights of 32 points' taps as a block-diagonal matrix [32, 128]."""
    flat = slices[first // _GROUP, pl.ds(row, 1), :]
    return jnp.where(_mine(), flat, 0.0)


def _split(x):
    """float32 [32, 128] as two bfloat16 matrices, one below the other: its sum."""
    high = x.astype(jnp.bfloat16)
    low = (x - high.astype(jnp.float32)).astype(jnp.bfloat16)
    return jnp.concatenate([high, low], axis=0)

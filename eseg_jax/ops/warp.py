"""Bilinear sampling of feature maps at a grid of points."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from eseg_jax.ops import warp_tpu
from eseg_jax.ops.cpu import one_function
from eseg_jax.ops.operation import operation


@operation
def bilinear_warp(
    features: jax.Array,
    grid: jax.Array,
    *,
    align_corners: bool = True,
    padding_mode: str = "zeros",
) -> jax.Array:
    """Samples feature maps at points between their pixels (SFNet §3.2, eq. 3).

    The semantics are those of PyTorch's `grid_sample`, in both directions: a tap
    outside the map counts as 0 with "zeros"; with "border" a point outside moves to
    the edge and its coordinate has no gradient.

    A batch split over devices needs no communication where `jax.set_mesh` names a mesh
    whose first axis divides the batch. XLA by itself cannot split the loop that is the
    backward rule on CPU, for which it gathers the batch otherwise, nor the kernels for
    TPU, in whose place it then has gathers and scatters: these are for bfloat16
    features under a mesh, be it of one chip. Rows split over devices give the right
    result at the price of gathering the features.

    Args:
      features: `[n,h,w,c]`, any float dtype; sums are float32 or wider.
      grid: `[n,H,W,2]` of (x, y), -1 the first and 1 the last edge of the map. Its
        arithmetic is float32 or wider: a bfloat16 grid of 512 columns would resolve
        no more than one or two pixels. A coordinate that is not a number gives NaN.
      align_corners: whether -1 and 1 are the centres of the outermost pixels (True)
        or their outer edges.
      padding_mode: "zeros" or "border".

    Returns:
      `[n,H,W,c]` in the dtype of features.

    Raises:
      ValueError: shapes that do not fit, or an unknown padding_mode.
    """
    features, grid = jnp.asarray(features), jnp.asarray(grid)
    _check(features, grid, padding_mode)
    return _warp(features, grid, align_corners, padding_mode)


def bilinear_warp_reference(
    features, grid, *, align_corners=True, padding_mode="zeros"
):
    """Four gathers with their automatic derivative: `bilinear_warp` in plain XLA.

    The same on every platform, which exporters to other runtimes need.
    """
    _check(features, grid, padding_mode)
    return _forward_gathers(features, grid, align_corners, padding_mode)


def _check(features, grid, padding_mode):
    if padding_mode not in ("zeros", "border"):
        raise ValueError(
            f"bilinear_warp has no padding_mode {padding_mode!r}; "
            "choose zeros or border."
        )
    if (
        features.ndim != 4
        or grid.ndim != 4
        or grid.shape[0] != features.shape[0]
        or grid.shape[-1] != 2
    ):
        raise ValueError(
            "bilinear_warp takes features [n, h, w, c] and a grid [n, H, W, 2] of the "
            f"same n, not {features.shape} and {grid.shape}."
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _warp(features, grid, align_corners, padding_mode):
    # A TPU's gather costs by the row: one row of four taps is twice as fast as four
    # rows of one by the compiler's estimate. A CPU loses more by packing them.
    options = {"align_corners": align_corners, "padding_mode": padding_mode}
    kernel, packed, gathers = (
        functools.partial(form, **options)
        for form in (_forward_kernel, _forward_packed, _forward_gathers)
    )
    return lax.platform_dependent(
        features, grid, tpu=_on_tpu(kernel, packed, features, grid), default=gathers
    )


def _warp_forward(features, grid, align_corners, padding_mode):
    return _warp(features, grid, align_corners, padding_mode), (features, grid)


def _warp_backward(align_corners, padding_mode, residuals, cotangent):
    features, grid = residuals
    y, x = _locate(grid, features.shape, align_corners, padding_mode)
    d_features, d_y, d_x = lax.platform_dependent(
        features,
        y.corner,
        x.corner,
        y.fraction,
        x.fraction,
        jnp.asarray(cotangent),
        cpu=_per_device(_backward_loop, features.shape[0]) or _backward_loop,
        tpu=_on_tpu(_backward_kernel, _backward_scatter, features, grid),
        default=_backward_scatter,
    )
    d_grid = jnp.stack([d_x * x.slope, d_y * y.slope], axis=-1)
    return d_features.astype(features.dtype), d_grid.astype(grid.dtype)


_warp.defvjp(_warp_forward, _warp_backward)


class _Axis(NamedTuple):
    """Where the points `[n,H,W]` lie along one axis of a map of `size` pixels.

    Attributes:
      corner: int32 in -1 … size - 1, the pixel at or before the point.
      fraction: float, 0 to 1, the distance from that pixel to the point.
      slope: derivative of `fraction` by the grid's coordinate; 0 outside.
    """

    corner: jax.Array
    fraction: jax.Array
    slope: jax.Array


def _locate(grid, shape, align_corners, padding_mode) -> tuple[_Axis, _Axis]:
    """Turns a grid of (x, y) into pixel coordinates along (rows, columns)."""
    grid = grid.astype(jnp.promote_types(grid.dtype, jnp.float32))

    def locate(x, size):
        if align_corners:
            position, slope = (x + 1) / 2 * (size - 1), (size - 1) / 2
        else:
            position, slope = ((x + 1) * size - 1) / 2, size / 2
        # Beyond these ends every tap is outside, or the coordinate is clipped. At the
        # ends PyTorch has no gradient with "border", a right-hand one with "zeros".
        if padding_mode == "zeros":
            low, high = -1, size
            inside = (position >= low) & (position < high)
        else:
            low, high = 0, size - 1
            inside = (position > low) & (position < high)
        clipped = lax.stop_gradient(jnp.clip(position, low, high))
        position = jnp.where(inside, position, clipped)
        # Clipped as an integer too, for NaN: no index may leave the map.
        corner = jnp.clip(jnp.floor(position).astype(jnp.int32), -1, size - 1)
        slope = jnp.where(inside, jnp.asarray(slope, x.dtype), 0)
        return _Axis(corner, position - corner.astype(x.dtype), slope)

    return locate(grid[..., 1], shape[1]), locate(grid[..., 0], shape[2])


def _weights(up, left):
    """Weights of the four taps, rows before columns: `[n,H,W]` each."""
    return [
        (up if dy else 1 - up) * (left if dx else 1 - left)
        for dy in (0, 1)
        for dx in (0, 1)
    ]


def _forward_gathers(features, grid, align_corners, padding_mode):
    n, h, w, c = features.shape
    y, x = _locate(grid, features.shape, align_corners, padding_mode)
    # Flattened pixels: indexing rows and columns would cost an all-gather.
    pixels = features.reshape(n, h * w, c)
    total = 0
    for tap, weight in enumerate(_weights(y.fraction, x.fraction)):
        row, column = y.corner + tap // 2, x.corner + tap % 2
        inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
        index = jnp.clip(row, 0, h - 1) * w + jnp.clip(column, 0, w - 1)
        value = _take(pixels, index)
        total = total + jnp.where(inside, weight, 0)[..., None] * value
    return total.astype(features.dtype)


def _forward_packed(features, grid, align_corners, padding_mode):
    y, x = _locate(grid, features.shape, align_corners, padding_mode)
    taps = _neighbours(features, y.corner, x.corner)
    weights = _weights(y.fraction, x.fraction)
    total = sum(
        weight[..., None] * tap
        for weight, tap in zip(weights, jnp.split(taps, 4, axis=-1), strict=True)
    )
    return total.astype(features.dtype)


def _forward_kernel(features, grid, align_corners, padding_mode):
    y, x = _locate(grid, features.shape, align_corners, padding_mode)
    return warp_tpu.forward(features, y.corner, x.corner, y.fraction, x.fraction)


def _neighbours(features, row, column):
    """The four taps around each point side by side: `[n,H,W,4c]`, 0 outside."""
    n, h, w, c = features.shape
    padded = jnp.pad(features, ((0, 0), (1, 1), (1, 1), (0, 0)))
    packed = jnp.concatenate(
        [padded[:, dy : dy + h + 1, dx : dx + w + 1] for dy in (0, 1) for dx in (0, 1)],
        axis=-1,
    )
    index = (row + 1) * (w + 1) + column + 1
    return _take(packed.reshape(n, (h + 1) * (w + 1), 4 * c), index)


def _take(pixels, index):
    """Gathers pixels `[n,p,c]` at an index `[n,H,W]`, each image for itself."""
    n, _, c = pixels.shape
    flat = index.reshape(n, -1, 1)
    taken = jnp.take_along_axis(pixels, flat, axis=1, mode="promise_in_bounds")
    return taken.reshape(*index.shape, c)


def _backward_scatter(features, row, column, up, left, cotangent):
    """The gradients of features, up and left, by one gather and one scatter."""
    wide = jnp.promote_types(features.dtype, up.dtype)
    cotangent = cotangent.astype(wide)
    taps = jnp.split(_neighbours(features, row, column), 4, axis=-1)
    products = [jnp.sum(tap.astype(wide) * cotangent, axis=-1) for tap in taps]
    # Sums in float32 whatever the features are: a pixel collects tens of cotangents.
    (d_features,) = jax.linear_transpose(
        functools.partial(_neighbours, row=row, column=column),
        jax.ShapeDtypeStruct(features.shape, wide),
    )(
        jnp.concatenate(
            [weight[..., None] * cotangent for weight in _weights(up, left)], axis=-1
        )
    )
    return d_features, *_d_fractions(products, up, left)


def _d_fractions(products, up, left):
    """The gradients of up and left from the products of taps and cotangent."""
    d_up = (products[2] - products[0]) * (1 - left) + (products[3] - products[1]) * left
    d_left = (products[1] - products[0]) * (1 - up) + (products[3] - products[2]) * up
    return d_up, d_left


@jax.custom_batching.sequential_vmap  # a loop over slices at two places is no slice
def _backward_loop(features, row, column, up, left, cotangent):
    """`_backward_scatter` as a loop over points that adds to the map in place.

    On a CPU a fifth of the time of XLA's scatter.
    """
    n, h, w, c = features.shape
    wide = jnp.promote_types(features.dtype, up.dtype)
    # A float32 map even for bfloat16 features, which would be converted at each step.
    padded = jnp.pad(features.astype(wide), ((0, 0), (1, 1), (1, 1), (0, 0)))
    padded = padded.reshape(n * (h + 2), w + 2, c)
    image = jnp.arange(n, dtype=jnp.int32).reshape(n, 1, 1)
    rows = (image * (h + 2) + row + 1).reshape(-1)
    columns = (column + 1).reshape(-1)
    weights = jnp.stack(_weights(up, left), axis=-1).reshape(-1, 2, 2, 1)
    cotangents = cotangent.astype(wide).reshape(-1, c)
    zero = jnp.int32(0)  # int32 even where x64 is on: a slice takes one type

    def body(i, carry):
        d_padded, products = carry
        cotangent, corner = cotangents[i], (rows[i], columns[i], zero)
        taps = lax.dynamic_slice(padded, corner, (2, 2, c)).reshape(4, c)
        product = _sum_last(taps * cotangent[None])
        before = lax.dynamic_slice(d_padded, corner, (2, 2, c))
        after = before + weights[i] * cotangent.reshape(1, 1, c)
        return (
            lax.dynamic_update_slice(d_padded, after, corner),
            lax.dynamic_update_slice(products, product[None], (i, zero)),
        )

    @one_function
    def loop(carry):
        return lax.fori_loop(zero, jnp.int32(rows.size), body, carry)

    zeros = jnp.zeros_like(padded), jnp.zeros((rows.size, 4), wide)
    d_padded, products = loop(zeros)
    d_features = d_padded.reshape(n, h + 2, w + 2, c)[:, 1:-1, 1:-1]
    products = [products[:, tap].reshape(row.shape) for tap in range(4)]
    return d_features, *_d_fractions(products, up, left)


def _sum_last(x):
    """Sums the last axis, by halves first: XLA's own sum on CPU takes one by one."""
    while x.shape[-1] > 16 and x.shape[-1] % 2 == 0:
        x = sum(jnp.split(x, 2, axis=-1))
    return jnp.sum(x, axis=-1)


def _backward_kernel(features, row, column, up, left, cotangent):
    """`_backward_scatter` with both sums in VMEM."""
    d_features, products = warp_tpu.backward(features, row, column, up, left, cotangent)
    return d_features.astype(up.dtype), *_d_fractions(products, up, left)


def _on_tpu(kernel, otherwise, features, grid):
    """The kernel on each chip's images, where there is a mesh of chips that fit."""
    chip = jax.sharding.get_abstract_mesh().abstract_device
    if chip is None or not warp_tpu.fits(features, grid, chip.device_kind):
        return otherwise
    return _per_device(kernel, features.shape[0]) or otherwise


def _per_device(function, batch):
    """The function on each device's images; None where no mesh says how."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return None
    if mesh.axis_types[0] == AxisType.Manual:  # under shard_map already
        return function
    if mesh.axis_types[0] != AxisType.Auto or batch % mesh.axis_sizes[0]:
        return None
    # The first axis of a mesh is the batch's; along any other every device computes
    # the same.
    spec = PartitionSpec(mesh.axis_names[0])
    # Unchecked: the loop's zeros count as equal on all devices, and its sums do not.
    return jax.shard_map(function, in_specs=spec, out_specs=spec, check_vma=False)

"""Dense convolution."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from eseg_jax.ops.kernels import input_gradient, on_every_device, on_several_devices
from eseg_jax.ops.operation import operation
from eseg_jax.ops.windows import Padding, out_size, pad, pad_pairs, tap


@operation
def conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Padding = "SAME",
    dilation: Sequence[int] = (1, 1),
) -> jax.Array:
    """Convolves images with a dense kernel.

    Args:
      x: `[n,h,w,i]`, any float dtype.
      kernel: `[kh,kw,i,o]`, dtype of x.
      strides: (rows, columns).
      padding: "SAME" (TensorFlow's rule) or ((top, bottom), (left, right)).
      dilation: distance between taps, (rows, columns).

    Returns:
      `[n,h',w',o]`, dtype of x. Differentiable in reverse mode only.
    """
    if kernel.ndim != 4 or kernel.shape[2] != x.shape[-1]:
        raise ValueError(
            f"conv: x has {x.shape[-1]} channels, so the kernel must be "
            f"[kh, kw, {x.shape[-1]}, out], not {list(kernel.shape)}."
        )
    window, strides, dilation = kernel.shape[:2], tuple(strides), tuple(dilation)
    pads = pad_pairs(x.shape, window, strides, padding, dilation)
    kernel = on_every_device(kernel)
    if window == (1, 1):
        return _pointwise(x, kernel, strides, pads)
    if x.shape[-1] <= 4 and window == (3, 3) and (strides, dilation) == _STEM:
        return _jit_stem(x, kernel, pads)
    # The library's form is the fastest known on every platform, but for the kernel's
    # gradient on CPU: im2col, a product for every tap, and phases of a strided gradient
    # gain nothing there (benchmarks/ops.py).
    return _dense(x, kernel, strides, pads, dilation)


@operation
def grouped_pointwise(x: jax.Array, kernel: jax.Array, *, groups: int) -> jax.Array:
    """A 1x1 convolution of each of `groups` runs of channels by itself.

    Args:
      x: `[n,h,w,i]`, any float dtype.
      kernel: `[1,1,i/groups,o]`, dtype of x; output channels group after group.
      groups: a divisor of i and o.

    Returns:
      `[n,h,w,o]`, dtype of x.
    """
    n, h, w, c = x.shape
    out = kernel.shape[-1]
    y = jnp.einsum(
        "nhwgi,igo->nhwgo",
        x.reshape(n, h, w, groups, c // groups),
        kernel.reshape(c // groups, groups, out // groups),
    )
    return y.reshape(n, h, w, out)


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _dense(x, kernel, strides, pads, dilation):
    return conv_reference(x, kernel, strides=strides, padding=pads, dilation=dilation)


def _dense_forward(x, kernel, strides, pads, dilation):
    return _dense(x, kernel, strides, pads, dilation), (x, kernel)


def _dense_backward(strides, pads, dilation, saved, g):
    # By hand for `on_every_device` within, and for the kernel's gradient on CPU.
    x, kernel = saved
    options = {"strides": strides, "pads": pads, "dilation": dilation}
    library, parts = (
        functools.partial(form, **options)
        for form in (_kernel_gradient, _kernel_gradient_cpu)
    )
    kernel_grad = lax.platform_dependent(x, kernel, g, cpu=parts, default=library)
    x_grad = input_gradient(g, kernel, x.shape[1:3], strides, pads, dilation)
    return x_grad, on_every_device(kernel_grad)


_dense.defvjp(_dense_forward, _dense_backward)


def _kernel_gradient(x, kernel, g, *, strides, pads, dilation):
    """The library's own."""
    form = functools.partial(
        conv_reference, x, strides=strides, padding=pads, dilation=dilation
    )
    return jax.vjp(form, kernel)[1](g)[0]


# What XLA's form takes at a time: bytes of x and g together, of which twice as many
# are not worth a split, and output channels; at most so many parts, for compile time.
_PART_BYTES, _PART_CHANNELS, _MOST_PARTS = 2 << 20, 64, 64


def _kernel_gradient_cpu(x, kernel, g, *, strides, pads, dilation):
    # Over maps that leave the cache XLA's form is up to four times slower than over
    # parts of them, whose gradients add up (benchmarks/ops.py): some images at a time
    # or, if those are too large, some rows of them. Between devices they would travel.
    if on_several_devices():
        return _kernel_gradient(
            x, kernel, g, strides=strides, pads=pads, dilation=dilation
        )
    n, height = g.shape[:2]
    size = (x.size + g.size) * g.dtype.itemsize
    parts = min(-(-size // _PART_BYTES), _MOST_PARTS) if size > 2 * _PART_BYTES else 1
    # Images become the innermost axis: a power of two of them fills vectors.
    fewest = 2 if x.shape[-1] % 32 == 0 else 4
    images = n if parts == 1 else max(fewest, 1 << (n // parts).bit_length() >> 1)
    rows = -(-height // max(parts // -(-n // images), 1))
    stride, (top, _) = strides[0], pads[0]
    reach = dilation[0] * (kernel.shape[0] - 1) + 1
    total = 0
    for row in range(0, height, rows):
        last = min(row + rows, height)
        start, end = row * stride - top, (last - 1) * stride - top + reach
        # Of x, from and to which row these outputs look; the rest is padding.
        first_in, last_in = (min(max(edge, 0), x.shape[1]) for edge in (start, end))
        for image in range(0, n, images):
            total += _kernel_gradient_part(
                x[image : image + images, first_in:last_in],
                kernel,
                g[image : image + images, row:last],
                strides=strides,
                pads=((first_in - start, end - last_in), pads[1]),
                dilation=dilation,
            )
    return total


def _kernel_gradient_part(x, kernel, g, *, strides, pads, dilation):
    channels = g.shape[-1]
    if channels <= 16 and strides == (1, 1):
        # For so few XLA's form is up to eight times slower where it pads.
        x, pads = pad(x, pads), ((0, 0), (0, 0))
    form = functools.partial(
        _kernel_gradient, strides=strides, pads=pads, dilation=dilation
    )
    if channels % _PART_CHANNELS or g.size < 1024 * channels:
        return form(x, kernel, g)
    # From 128 on it is up to 4.6 times slower than 64 at a time, but for small maps.
    kernels, gs = (
        jnp.split(a, channels // _PART_CHANNELS, axis=-1) for a in (kernel, g)
    )
    parts = [form(x, *part) for part in zip(kernels, gs, strict=True)]
    return jnp.concatenate(parts, axis=-1)


def _pointwise(x, kernel, strides, pads):
    """A 1x1 convolution: the pixels it keeps, times a matrix."""
    size = out_size(x.shape, (1, 1), strides, pads)
    return _jit_product(tap(pad(x, pads), (0, 0), size, strides), kernel[0, 0])


@jax.custom_vjp
def _product(x, matrix):
    return jnp.dot(x, matrix)


def _product_forward(x, matrix):
    return _product(x, matrix), (x, matrix)


def _product_backward(saved, g):
    x, matrix = saved
    matrix_grad = lax.platform_dependent(
        x, g, cpu=_matrix_grad_cpu, default=_matrix_grad
    )
    return jnp.dot(g, matrix.T), matrix_grad


_product.defvjp(_product_forward, _product_backward)
_jit_product = jax.jit(_product)


def _matrix_grad(x, g):
    """`[i,o]`, the sum over the pixels of x `[n,h,w,i]` times g `[n,h,w,o]`."""
    return jnp.einsum("nhwi,nhwo->io", x, g)


def _matrix_grad_cpu(x, g):
    # XLA's fast product wants the long axis last on the left and first on the right.
    # As it stands, or as jax derives it, the product is up to 7 times slower. With
    # more inputs than outputs the left transpose costs more than it gains.
    x, g = (a.reshape(-1, a.shape[-1]) for a in (x, g))
    if x.shape[1] <= g.shape[1]:
        return lax.optimization_barrier(x.T) @ g
    return lax.dot_general(g, x, (((0,), (0,)), ((), ()))).T


# Strides and dilation of the stems that gain by space-to-depth.
_STEM = ((2, 2), (1, 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _stem(x, kernel, pads):
    library = functools.partial(conv_reference, strides=(2, 2), padding=pads)
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_space_to_depth, pads=pads),
        tpu=functools.partial(_patches_times_kernel, pads=pads),
        default=library,
    )


def _stem_forward(x, kernel, pads):
    return _stem(x, kernel, pads), (x, kernel)


def _stem_backward(pads, saved, g):
    def library(x, kernel, g):  # the faster one on CPU too
        return _dense_backward((2, 2), pads, (1, 1), (x, kernel), g)

    def patches(x, kernel, g):
        form = functools.partial(_patches_times_kernel, pads=pads)
        x_grad, kernel_grad = jax.vjp(form, x, kernel)[1](g)
        return x_grad, on_every_device(kernel_grad)

    return lax.platform_dependent(*saved, g, tpu=patches, default=library)


_stem.defvjp(_stem_forward, _stem_backward)
_jit_stem = jax.jit(_stem, static_argnums=(2,))


def _space_to_depth(x, kernel, *, pads):
    """A 3x3 stride-2 convolution as a 2x2 one over blocks of 2x2 pixels.

    Three input channels leave most of a vector unit idle; twelve leave less.
    """
    n, _, _, c = x.shape
    height, width = out_size(x.shape, (3, 3), (2, 2), pads)
    (top, _), (left, _) = pads
    below = 2 * (height + 1) - x.shape[1] - top
    right = 2 * (width + 1) - x.shape[2] - left
    x = pad(x, ((top, below), (left, right)))
    x = x.reshape(n, height + 1, 2, width + 1, 2, c).swapaxes(2, 3)
    kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    kernel = kernel.reshape(2, 2, 2, 2, c, -1).swapaxes(1, 2)
    return conv_reference(
        x.reshape(n, height + 1, width + 1, 4 * c),
        kernel.reshape(2, 2, 4 * c, -1),
        padding="VALID",
    )


def _patches_times_kernel(x, kernel, *, pads):
    """A 3x3 stride-2 convolution as a product over the pixels of a window.

    For the gradient of the kernel the library's form lays the three channels out in
    the 128 lanes of a TPU: it takes forty times the memory and most of the time of
    the stem. Here they stay beside the window's nine pixels, and the columns in the
    lanes. Those are picked by a product with zeros and ones, which is exact; what is
    infinite or no number spreads along its row.
    """
    height, width = out_size(x.shape, (3, 3), (2, 2), pads)
    columns = []
    for j in range(3):
        where = j - pads[1][0] + 2 * np.arange(width)
        picked = jnp.asarray(where == np.arange(x.shape[2])[:, None], x.dtype)
        seen = jnp.einsum("nhwc,wv->nhvc", x, picked, precision="highest")
        columns.append(pad(seen, (pads[0], (0, 0))))
    patches = [
        tap(columns[j], (i, 0), (height, width), (2, 1))
        for i in range(3)
        for j in range(3)
    ]
    kernel = kernel.reshape(-1, kernel.shape[-1])
    return jnp.concatenate(patches, axis=-1) @ kernel

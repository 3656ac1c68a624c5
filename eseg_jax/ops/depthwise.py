"""Depthwise convolution.

The library's form runs as a naive loop on CPU (up to 50 times slower than here) and
badly on TPU; the sum over the taps of a shifted slice times the tap's weights is one
fused pass on both. CUDA keeps the library's form, which cuDNN knows.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from eseg_jax.ops.cpu import apart
from eseg_jax.ops.kernels import input_gradient, on_every_device
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
      x: `[n,h,w,c]`, any float dtype; sums are float32 or better.
      kernel: `[kh,kw,1,c]`, dtype of x.
      strides: (rows, columns).
      padding: "SAME" (TensorFlow's rule) or ((top, bottom), (left, right)).
      dilation: distance between taps, (rows, columns).

    Returns:
      `[n,h',w',c]`, dtype of x. Differentiable in reverse mode only.
    """
    if kernel.ndim != 4 or kernel.shape[2:] != (1, x.shape[-1]):
        raise ValueError(
            f"depthwise_conv: x has {x.shape[-1]} channels, so the kernel must be "
            f"[kh, kw, 1, {x.shape[-1]}], not {list(kernel.shape)}."
        )
    strides, dilation = tuple(strides), tuple(dilation)
    pads = pad_pairs(x.shape, kernel.shape[:2], strides, padding, dilation)
    return _jit_depthwise(x, on_every_device(kernel), strides, pads, dilation)


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _depthwise(x, kernel, strides, pads, dilation):
    window = {"strides": strides, "dilation": dilation}
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_shifted, pads=pads, wrap=apart, **window),
        cuda=functools.partial(depthwise_conv_reference, padding=pads, **window),
        default=functools.partial(_shifted, pads=pads, **window),
    )


def _forward(x, kernel, strides, pads, dilation):
    return _depthwise(x, kernel, strides, pads, dilation), (x, kernel)


def _backward(strides, pads, dilation, saved, g):
    window = {"strides": strides, "pads": pads, "dilation": dilation}
    return lax.platform_dependent(
        *saved,
        g,
        cpu=apart(
            functools.partial(_shifted_backward, reduce=_sum_in_chunks, **window)
        ),
        cuda=functools.partial(_library_backward, **window),
        tpu=functools.partial(_tpu_backward, **window),
        default=functools.partial(_shifted_backward, reduce=_sum_taps, **window),
    )


_depthwise.defvjp(_forward, _backward)
# Networks repeat their shapes; jit traces each of them once.
_jit_depthwise = jax.jit(_depthwise, static_argnums=(2, 3, 4))


def _taps(kernel, dilation):
    """((row, column) in the window, (i, j) in the kernel) of every tap."""
    return [
        ((i * dilation[0], j * dilation[1]), (i, j))
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    ]


def _shifted(x, kernel, *, strides, pads, dilation, wrap=lambda function: function):
    """One fused pass: pad once, then a multiply-add for every tap.

    `wrap` decorates the multiply-adds.
    """
    size = out_size(x.shape, kernel.shape[:2], strides, pads, dilation)
    dtype = sum_type(x.dtype)
    weights = kernel[:, :, None, None].astype(dtype)

    @wrap
    def total(padded, weights):
        out = sum(
            tap(padded, start, size, strides).astype(dtype) * weights[index]
            for start, index in _taps(kernel, dilation)
        )
        return out.astype(x.dtype)

    return total(pad(x, pads), weights)


def _library_backward(x, kernel, g, *, strides, pads, dilation):
    library = functools.partial(
        depthwise_conv_reference, x, strides=strides, padding=pads, dilation=dilation
    )
    (kernel_grad,) = jax.vjp(library, kernel)[1](g)
    x_grad = input_gradient(
        g, kernel, x.shape[1:3], strides, pads, dilation, depthwise=True
    )
    return x_grad, on_every_device(kernel_grad)


def _shifted_backward(x, kernel, g, *, strides, pads, dilation, reduce):
    dtype = sum_type(x.dtype)
    weights = kernel[:, :, None, None].astype(dtype)
    x_grad = collect(
        lambda i, j, values: values.astype(dtype) * weights[i, j],
        [g],
        x.shape[1:3],
        kernel.shape[:2],
        strides,
        pads,
        dilation,
    )
    taps = [start for start, _ in _taps(kernel, dilation)]
    kernel_grad = reduce(x, g, taps, strides, pads).reshape(kernel.shape)
    return x_grad.astype(x.dtype), kernel_grad.astype(kernel.dtype)


def _tpu_backward(x, kernel, g, *, strides, pads, dilation):
    """As `_shifted_backward`; without strides the adjoint is a convolution, too.

    That is one fused pass, where the phases of `collect` are cut out of larger arrays.
    """
    window = {"strides": strides, "pads": pads, "dilation": dilation}
    if strides != (1, 1):
        return _shifted_backward(x, kernel, g, reduce=_sum_taps, **window)
    reach = [(k - 1) * d for k, d in zip(kernel.shape[:2], dilation, strict=True)]
    around = tuple((r - a, r - b) for r, (a, b) in zip(reach, pads, strict=True))
    x_grad = _shifted(g, kernel[::-1, ::-1], **window | {"pads": around})
    taps = [start for start, _ in _taps(kernel, dilation)]
    kernel_grad = _sum_taps(x, g, taps, strides, pads).reshape(kernel.shape)
    return x_grad.astype(x.dtype), kernel_grad.astype(kernel.dtype)


def _sum_taps(x, g, taps, strides, pads):
    """Kernel gradient `[taps,c]`, one reduction a tap."""
    padded, dtype = pad(x, pads), sum_type(x.dtype)

    def product(start):
        seen = tap(padded, start, g.shape[1:3], strides)
        return seen.astype(dtype) * g.astype(dtype)

    return jnp.stack([jnp.sum(product(start), (0, 1, 2)) for start in taps])


# XLA's CPU compiler unrolls a reduction this long, and then vectorises over channels.
_CHUNK = 8
# Sums kept in registers by one such reduction: more of them spill.
_SUMS = 10


def _sum_in_chunks(x, g, taps, strides, pads):
    """Kernel gradient `[taps,c]` in one pass over x and g for up to `_SUMS` taps.

    A plain sum over all pixels reads with the stride of the channels, a scalar at a
    time. Here short runs of columns are summed first, for several taps at once; the
    second sum reads an eighth.
    """
    n, height, width, c = g.shape
    runs = -(-width // _CHUNK)
    length = -(-width // runs)
    extra = runs * length - width
    (top, bottom), (left, right) = pads
    padded = pad(x, ((top, bottom), (left, right + extra * strides[1])))
    g = pad(g, ((0, 0), (0, extra)))

    dtype = sum_type(x.dtype)

    def product(start):
        seen = tap(padded, start, g.shape[1:3], strides)
        values = seen.astype(dtype) * g.astype(dtype)
        return values.reshape(n, height, runs, length, c)

    sums = []
    for first in range(0, len(taps), _SUMS):
        products = [product(start) for start in taps[first : first + _SUMS]]
        zeros = [jnp.zeros((), dtype)] * len(products)
        sums += lax.reduce(products, zeros, _add_each, (3,))
    return jnp.sum(jnp.stack(sums), (1, 2, 3))


def _add_each(left, right):
    return [a + b for a, b in zip(left, right, strict=True)]

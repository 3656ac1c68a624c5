"""The depthwise convolution against the library's form and sums done by hand."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import op_checks
import pytest

from eseg_jax.ops import windows
from eseg_jax.ops.depthwise import depthwise_conv, depthwise_conv_reference

# The package's name for the file is the function.
depthwise_file = sys.modules[depthwise_conv.__module__]

CASES = {
    "3x3": ((2, 5, 19, 3), (3, 3), {}),
    "5x5": ((2, 6, 7, 2), (5, 5), {}),
    "stride, even": ((2, 6, 8, 3), (3, 3), {"strides": (2, 2)}),
    "stride, odd": ((2, 7, 5, 3), (5, 5), {"strides": (2, 2)}),
    "stride 3 beyond the window": ((1, 7, 8, 2), (2, 2), {"strides": (3, 3)}),
    "pixel": ((2, 1, 1, 3), (3, 3), {"strides": (2, 2)}),
    "PyTorch": (
        (2, 8, 7, 3),
        (3, 3),
        {"strides": (2, 2), "padding": ((1, 1), (1, 1))},
    ),
    "wide padding": (
        (1, 4, 5, 2),
        (3, 3),
        {"strides": (2, 1), "padding": ((3, 0), (0, 4))},
    ),
    "cropped": ((1, 6, 7, 2), (3, 3), {"padding": ((2, -1), (0, 3))}),
    "dilation": ((1, 9, 8, 2), (3, 2), {"strides": (2, 3), "dilation": (2, 3)}),
}


def make(case):
    image, window, options = CASES[case]
    inputs = op_checks.normal(*image), op_checks.normal(*window, 1, image[-1])
    return inputs, functools.partial(depthwise_conv, **options), options


@pytest.mark.parametrize("case", CASES)
def test_reference(case):
    inputs, function, options = make(case)
    reference = functools.partial(depthwise_conv_reference, **options)
    op_checks.check_reference(function, reference, *inputs)


@pytest.mark.parametrize("case", CASES)
def test_gradients_for_tpu(case):
    (x, kernel), function, options = make(case)
    options = {"strides": (1, 1), "dilation": (1, 1), "padding": "SAME", **options}
    strides, dilation = options["strides"], options["dilation"]
    form = functools.partial(
        depthwise_file._tpu_backward,
        pads=windows.pad_pairs(
            x.shape, kernel.shape[:2], strides, options["padding"], dilation
        ),
        strides=strides,
        dilation=dilation,
    )
    g = op_checks.normal(*function(x, kernel).shape)
    reference = functools.partial(depthwise_conv_reference, **options)
    op_checks.assert_close(
        jax.jit(form)(x, kernel, g), jax.vjp(reference, x, kernel)[1](g), 1e-5
    )


def test_values():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    kernel = jnp.array([[0, 1, 0], [0, 0, 2], [0, 0, 0]]).reshape(3, 3, 1, 1)
    # The pixel above and twice the pixel on the right.
    np.testing.assert_array_equal(
        depthwise_conv(x, kernel.astype(x.dtype))[0, :, :, 0],
        [[2, 4, 0], [8, 11, 2], [17, 20, 5]],
    )


def test_float64_sums_stay_float64():
    inputs, function, _ = make("3x3")
    with jax.enable_x64(True):
        x, kernel = (np.asarray(a, np.float64) for a in inputs)
        x[0, 0, 0, 0] += 1e-12
        output, (x_grad, kernel_grad) = op_checks.with_gradients(function, x, kernel)
        reference = op_checks.with_gradients(depthwise_conv_reference, x, kernel)
        op_checks.assert_close((output, (x_grad, kernel_grad)), reference, 1e-14)


@pytest.mark.parametrize("case", ["3x3", "stride, odd"])
def test_vmap(case):
    inputs, function, _ = make(case)
    op_checks.check_vmap(function, *inputs)


def test_bfloat16():
    inputs, function, _ = make("stride, odd")
    op_checks.check_bfloat16(function, *inputs)


@pytest.mark.parametrize("case", ["3x3", "stride, odd"])
def test_sharded(mesh, case):
    (x, kernel), function, _ = make(case)
    op_checks.check_sharded(mesh, function, jnp.concatenate([x, x - 1]), kernel)


@pytest.mark.tpu_aot
def test_tpu(monkeypatch):
    (x, kernel), function, _ = make("stride, even")
    op_checks.check_tpu(monkeypatch, function, jnp.concatenate([x, x]), kernel)


def test_wrong_kernel():
    with pytest.raises(ValueError, match=r"the kernel must be \[kh, kw, 1, 3\]"):
        depthwise_conv(jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3, 1)))

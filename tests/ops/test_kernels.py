"""Kernels on meshes: the gradient of images, and kernels that XLA would split."""

import jax
import numpy as np
import op_checks
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from eseg_jax import sharding
from eseg_jax.ops.conv import conv, conv_reference
from eseg_jax.ops.depthwise import depthwise_conv, depthwise_conv_reference
from eseg_jax.ops.kernels import input_gradient


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(
    "strides, pads, dilation",
    [
        ((1, 1), ((1, 1), (2, 2)), (1, 1)),
        ((2, 3), ((0, 1), (4, 0)), (1, 2)),
        ((3, 2), ((3, 0), (0, 4)), (2, 1)),
    ],
)
def test_input_gradient(depthwise, strides, pads, dilation):
    x = op_checks.normal(2, 9, 8, 4)
    kernel = op_checks.normal(3, 2, *((1, 4) if depthwise else (4, 5)))
    form = depthwise_conv_reference if depthwise else conv_reference
    out, pull = jax.vjp(
        lambda x: form(x, kernel, strides=strides, padding=pads, dilation=dilation), x
    )
    g = op_checks.normal(*out.shape)
    found = input_gradient(
        g, kernel, x.shape[1:3], strides, pads, dilation, depthwise=depthwise
    )
    np.testing.assert_allclose(found, pull(g)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["dense", "depthwise"])
def test_a_kernel_that_comes_in_rows(form):
    """XLA by itself, with images and kernel split by rows, gets the gradient wrong."""
    mesh = sharding.make_mesh({"data": 2, "spatial": 2})
    function = {"dense": conv, "depthwise": depthwise_conv}[form]
    x = op_checks.normal(4, 4, 4, 8)
    kernel = op_checks.normal(4, 4, 8 if form == "dense" else 1, 8)
    places = [
        NamedSharding(mesh, PartitionSpec(*axes))
        for axes in (("data", "spatial"), ("spatial",))
    ]
    with jax.set_mesh(mesh):
        found = jax.jit(
            lambda x, kernel: op_checks.with_gradients(function, x, kernel),
            in_shardings=places,
        )(x, kernel)
    op_checks.assert_close(found, op_checks.with_gradients(function, x, kernel))

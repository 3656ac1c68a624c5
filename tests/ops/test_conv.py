"""The dense convolution against the library's form and sums done by hand."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import op_checks
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from eseg_jax.ops import windows
from eseg_jax.ops.conv import conv, conv_reference

conv_file = sys.modules[conv.__module__]  # the package's name for it is the function

# Image, kernel, options: each of the forms, and the edges of each.
CASES = {
    "pointwise": ((2, 5, 7, 3), (1, 1, 3, 4), {}),
    "pointwise to fewer": ((2, 5, 7, 4), (1, 1, 4, 3), {}),
    "pointwise, stride": ((2, 5, 8, 3), (1, 1, 3, 4), {"strides": (2, 2)}),
    "pointwise, padding": (
        (2, 5, 8, 3),
        (1, 1, 3, 4),
        {"strides": (2, 1), "padding": ((1, 0), (0, 2))},
    ),
    "stem, even": ((2, 8, 6, 3), (3, 3, 3, 4), {"strides": (2, 2)}),
    "stem, odd": ((2, 7, 5, 3), (3, 3, 3, 4), {"strides": (2, 2)}),
    "stem, pixel": ((1, 1, 1, 3), (3, 3, 3, 4), {"strides": (2, 2)}),
    "stem, PyTorch": (
        (2, 8, 7, 3),
        (3, 3, 3, 4),
        {"strides": (2, 2), "padding": ((1, 1), (1, 1))},
    ),
    "stem, unpadded": (
        (2, 8, 9, 3),
        (3, 3, 3, 4),
        {"strides": (2, 2), "padding": ((0, 0), (0, 0))},
    ),
    "dense": (
        (2, 9, 8, 5),
        (3, 5, 5, 6),
        {"strides": (2, 1), "dilation": (1, 2)},
    ),
    "dense, many channels and pixels": ((2, 18, 30, 2), (3, 3, 2, 192), {}),
}


def make(case):
    image, kernel, options = CASES[case]
    inputs = op_checks.normal(*image), op_checks.normal(*kernel)
    return inputs, functools.partial(conv, **options), options


@pytest.mark.parametrize("case", CASES)
def test_reference(case):
    inputs, function, options = make(case)
    reference = functools.partial(conv_reference, **options)
    op_checks.check_reference(function, reference, *inputs)


@pytest.mark.parametrize("case", [case for case in CASES if "stem" in case])
def test_form_of_the_stem_for_tpu(case):
    (x, kernel), _, options = make(case)
    padding = options.get("padding", "SAME")
    pads = windows.pad_pairs(x.shape, (3, 3), (2, 2), padding)
    form = functools.partial(conv_file._patches_times_kernel, pads=pads)
    reference = functools.partial(conv_reference, **options)
    op_checks.check_reference(form, reference, x, kernel)


PARTS = {
    "images": ((9, 6, 7, 3), (3, 3, 3, 17), {}),
    "rows": ((3, 19, 8, 5), (5, 3, 5, 6), {"padding": ((1, 4), (2, 0))}),
    "few channels": ((3, 19, 8, 5), (3, 3, 5, 6), {}),
    "stride": ((3, 20, 9, 5), (3, 3, 5, 6), {"strides": (2, 2)}),
    "dilation": ((2, 21, 9, 32), (3, 3, 32, 17), {"dilation": (3, 2)}),
    "rows that see padding alone": (
        (1, 4, 3, 2),
        (2, 2, 2, 20),
        {"padding": ((9, 8), (2, 3))},
    ),
}


def test_parts_of_the_kernel_gradient_have_64_channels(monkeypatch):
    x, kernel = op_checks.normal(8, 20, 30, 2), op_checks.normal(3, 3, 2, 128)
    assert _in_parts(monkeypatch, 1 << 20, x, kernel) == [(4, 20, 30, 64)] * 4


@pytest.mark.parametrize("case", PARTS)
def test_kernel_gradient_in_parts(monkeypatch, case):
    image, kernel, options = PARTS[case]
    x, kernel = op_checks.normal(*image), op_checks.normal(*kernel)
    assert len(_in_parts(monkeypatch, 500, x, kernel, **options)) > 2


def _in_parts(monkeypatch, part_bytes, x, kernel, **options):
    """Compares the kernel's gradient; the shapes of the outputs of its parts on CPU."""
    reference = functools.partial(conv_reference, **options)
    g = op_checks.normal(*jax.eval_shape(reference, x, kernel).shape)
    shapes, whole = [], conv_file._kernel_gradient

    def noted(x, kernel, g, **options):
        shapes.append(g.shape)
        return whole(x, kernel, g, **options)

    (expected,) = jax.vjp(lambda k: reference(x, k), kernel)[1](g)
    with monkeypatch.context() as patch:
        patch.setattr(conv_file, "_PART_BYTES", part_bytes)
        patch.setattr(conv_file, "_kernel_gradient", noted)
        (found,) = jax.vjp(lambda k: conv(x, k, **options), kernel)[1](g)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    return shapes


def test_sharded_kernel_gradient_is_taken_whole(mesh, monkeypatch):
    """Parts of what is split over devices would travel between them."""
    image, kernel, _ = PARTS["images"]
    x, kernel = op_checks.normal(8, *image[1:]), op_checks.normal(*kernel)
    monkeypatch.setattr(conv_file, "_PART_BYTES", 500)
    x = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    loss = jax.jit(jax.grad(lambda k, x: (conv(x, k) ** 2).sum()))
    with jax.set_mesh(mesh):
        program = loss.lower(kernel, x).compile().as_text()
    assert "all-reduce" in program and "collective-permute" not in program


def test_values():
    x = jnp.arange(1.0, 5.0).reshape(1, 2, 2, 1) * jnp.ones((1, 1, 1, 3))
    total = conv(x, jnp.ones((3, 3, 3, 1)), strides=(2, 2))
    # SAME pads an even size below and on the right: the window holds all pixels.
    np.testing.assert_array_equal(total, [[[[30.0]]]])
    pixels = conv(x, jnp.ones((1, 1, 3, 1)), strides=(2, 1))
    np.testing.assert_array_equal(pixels[0, :, :, 0], [[3.0, 6.0]])


@pytest.mark.parametrize("case", ["pointwise", "stem, odd"])
def test_vmap(case):
    inputs, function, _ = make(case)
    op_checks.check_vmap(function, *inputs)


@pytest.mark.parametrize("case", ["pointwise", "stem, odd", "dense"])
def test_bfloat16(case):
    inputs, function, _ = make(case)
    op_checks.check_bfloat16(function, *inputs)


@pytest.mark.parametrize("case", ["pointwise", "pointwise to fewer", "stem, odd"])
def test_sharded(mesh, case):
    (x, kernel), function, _ = make(case)
    op_checks.check_sharded(mesh, function, jnp.concatenate([x, x - 1]), kernel)


@pytest.mark.tpu_aot
@pytest.mark.parametrize("case", ["pointwise", "stem, even"])
def test_tpu(monkeypatch, case):
    (x, kernel), function, _ = make(case)
    op_checks.check_tpu(monkeypatch, function, jnp.concatenate([x, x]), kernel)


def test_wrong_kernel():
    with pytest.raises(ValueError, match=r"the kernel must be \[kh, kw, 3, out\]"):
        conv(jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 4, 8)))


def test_unknown_padding():
    with pytest.raises(ValueError, match='padding is "VALID"; give "SAME" or'):
        conv(jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3, 8)), padding="VALID")

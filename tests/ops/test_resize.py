"""Resizing against the library's form, sums done by hand and PyTorch's results."""

import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import op_checks
import pytest

from eseg_jax.ops.resize import (
    resize_bilinear,
    resize_bilinear_reference,
    resize_nearest,
    resize_nearest_reference,
)

FIXTURES = pathlib.Path(
    os.environ.get(
        "ESEG_JAX_TEST_FIXTURES",
        pathlib.Path(__file__).resolve().parents[3] / "shared" / "fixtures",
    )
)
# From, to: whole factors even and odd, other factors, smaller, pixels, the same.
CASES = [
    ((4, 3), (8, 24)),
    ((3, 5), (9, 5)),
    ((7, 6), (10, 13)),
    ((2, 3), (4, 9)),
    ((9, 8), (4, 2)),
    ((1, 1), (5, 3)),
    ((5, 4), (1, 1)),
    ((4, 4), (4, 4)),
]
FORMS = {
    "bilinear": (resize_bilinear, resize_bilinear_reference),
    "nearest": (resize_nearest, resize_nearest_reference),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("source", "target"), CASES)
def test_reference(source, target, form):
    function, reference = (functools.partial(f, size=target) for f in FORMS[form])
    op_checks.check_reference(function, reference, op_checks.normal(2, *source, 3))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("source", "target"), CASES)
def test_reference_on_a_gpu(source, target, form, as_on_an_accelerator):
    function, reference = (functools.partial(f, size=target) for f in FORMS[form])
    op_checks.check_reference(function, reference, op_checks.normal(2, *source, 3))


@pytest.mark.parametrize(("spatial", "gathers"), [(1, True), (2, False)])
def test_gathers_only_where_rows_are_whole(spatial, gathers, as_on_an_accelerator):
    mesh = jax.make_mesh(
        (4 // spatial, spatial),
        ("data", "spatial"),
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
    )
    with jax.set_mesh(mesh):
        traced = jax.make_jaxpr(lambda x: resize_bilinear(x, (8, 8)))(
            jnp.zeros((4, 4, 4, 1))
        )
    assert ("gather[" in str(traced)) == gathers


@pytest.mark.parametrize(
    ("resize", "row", "expected"),
    [
        (resize_bilinear, [0, 4, 8], [0, 1, 3, 5, 7, 8]),
        (resize_bilinear, [0, 3, 9], [0, 0, 1, 2, 3, 5, 7, 9, 9]),
        (resize_bilinear, [0, 4], [0, 1, 3, 4]),
        (resize_bilinear, [0, 1, 2, 3], [0.5, 2.5]),
        (resize_nearest, [5, 6, 7], [5, 5, 6, 6, 7, 7]),
        (resize_nearest, [5, 6, 7], [5, 7]),
        (resize_nearest, [5, 6], [5, 6, 6]),  # the middle lies between the two
    ],
)
def test_one_axis(resize, row, expected):
    x = jnp.array(row, jnp.float32).reshape(1, 1, -1, 1)
    wide = resize(x, (1, len(expected)))
    np.testing.assert_allclose(wide[0, 0, :, 0], expected, rtol=1e-6)
    tall = resize(x.swapaxes(1, 2), (len(expected), 1))
    np.testing.assert_allclose(tall[0, :, 0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("target", [(6, 8), (5, 7)])
def test_vmap(form, target):
    function = functools.partial(FORMS[form][0], size=target)
    op_checks.check_vmap(function, op_checks.normal(2, 3, 4, 2))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("target", [(6, 8), (5, 7)])
def test_bfloat16(form, target):
    function = functools.partial(FORMS[form][0], size=target)
    op_checks.check_bfloat16(function, op_checks.normal(2, 3, 4, 2))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("target", [(6, 8), (5, 7)])
def test_sharded(mesh, form, target):
    function = functools.partial(FORMS[form][0], size=target)
    op_checks.check_sharded(mesh, function, op_checks.normal(4, 3, 4, 2))


@pytest.mark.tpu_aot
@pytest.mark.parametrize("form", FORMS)
def test_tpu(monkeypatch, form):
    function = functools.partial(FORMS[form][0], size=(6, 8))
    op_checks.check_tpu(monkeypatch, function, op_checks.normal(4, 3, 4, 2))


@pytest.mark.parametrize("case", range(8))
def test_pytorch(case):
    path = FIXTURES / "warp" / "resize_bilinear.npz"
    if not path.is_file():
        pytest.skip(f"no {path}; ESEG_JAX_TEST_FIXTURES names the fixtures' folder")
    data = np.load(path)
    x, y, g, dx = (
        np.moveaxis(data[f"r{case}_{name}"], 1, -1)
        for name in ("in", "ac0_out", "ac0_cot", "ac0_gin")
    )

    @jax.jit
    def both(x, g):
        output, pull = jax.vjp(lambda x: resize_bilinear(x, y.shape[1:3]), x)
        return output, pull(g)[0]

    output, gradient = both(x, g)
    # PyTorch computes where to sample in float32: on up to 161 pixels an error
    # of 1e-5 pixels.
    np.testing.assert_allclose(output, y, rtol=0, atol=4e-5)
    np.testing.assert_allclose(gradient, dx, rtol=4e-5, atol=4e-5)

"""The resize with aligned corners against sums done by hand and PyTorch's results."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eseg_jax.ops.resize_corners import resize_align_corners

FIXTURES = pathlib.Path(
    os.environ.get(
        "ESEG_JAX_TEST_FIXTURES",
        pathlib.Path(__file__).resolve().parents[3] / "shared" / "fixtures",
    )
)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([1.0, 3.0], [1.0, 1.5, 2.0, 2.5, 3.0]),
        ([0.0, 3.0, 9.0], [0.0, 1.5, 3.0, 6.0, 9.0]),
        ([0.0, 1.0, 2.0, 3.0, 10.0], [0.0, 2.0, 10.0]),
        ([4.0], [4.0, 4.0, 4.0]),
        ([4.0, 7.0], [4.0]),
        ([1.0, 5.0], [1.0, 5.0]),
    ],
)
def test_one_axis(row, expected):
    x = jnp.array(row).reshape(1, 1, -1, 1)
    wide = resize_align_corners(x, (1, len(expected)))
    np.testing.assert_allclose(wide[0, 0, :, 0], expected, rtol=1e-6)
    tall = resize_align_corners(jnp.swapaxes(x, 1, 2), (len(expected), 1))
    np.testing.assert_allclose(tall[0, :, 0, 0], expected, rtol=1e-6)


def test_bfloat16_is_rounded_once():
    x = jax.random.normal(jax.random.key(0), (1, 3, 4, 2)).astype(jnp.bfloat16)
    exact = resize_align_corners(x.astype(jnp.float32), (6, 7))
    output = resize_align_corners(x, (6, 7))
    assert output.dtype == jnp.bfloat16
    np.testing.assert_array_equal(output, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize("case", range(8))
@pytest.mark.parametrize("form", ["cpu", "gpu"])
def test_pytorch(case, form, request):
    if form == "gpu":
        request.getfixturevalue("as_on_an_accelerator")
    path = FIXTURES / "warp" / "resize_bilinear.npz"
    if not path.is_file():
        pytest.skip(f"no {path}; ESEG_JAX_TEST_FIXTURES names the fixtures' folder")
    data = np.load(path)
    x, y, g, dx = (
        np.moveaxis(data[f"r{case}_{name}"], 1, -1)
        for name in ("in", "ac1_out", "ac1_cot", "ac1_gin")
    )

    @jax.jit
    def both(x, g):
        output, pull = jax.vjp(lambda x: resize_align_corners(x, y.shape[1:3]), x)
        return output, pull(g)[0]

    output, gradient = both(x, g)
    np.testing.assert_allclose(output, y, rtol=0, atol=1e-5)
    np.testing.assert_allclose(gradient, dx, rtol=1e-5, atol=1e-5)

"""Adaptive pooling against averages of the bins PyTorch documents."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eseg_jax.ops.adaptive_pool import adaptive_avg_pool


def by_loops(x, bins):
    n, h, w, c = x.shape
    out = np.zeros((n, bins, bins, c))
    for i in range(bins):
        for j in range(bins):
            rows = slice(i * h // bins, math.ceil((i + 1) * h / bins))
            columns = slice(j * w // bins, math.ceil((j + 1) * w / bins))
            out[:, i, j] = x[:, rows, columns].mean(axis=(1, 2))
    return out


def test_bins_of_five_pixels_by_hand():
    # Two bins of five pixels share the middle one; three have 0-1, 1-3, 3-4.
    x = jnp.array([0.0, 3.0, 6.0, 30.0, 60.0]).reshape(1, 1, 5, 1)
    two = adaptive_avg_pool(x, 2)
    np.testing.assert_allclose(two[0, 0, :, 0], [3.0, 32.0], rtol=1e-6)
    np.testing.assert_allclose(two[0, 1], two[0, 0])  # the one row is repeated
    three = adaptive_avg_pool(x, 3)
    np.testing.assert_allclose(three[0, 0, :, 0], [1.5, 13.0, 45.0], rtol=1e-6)


@pytest.mark.parametrize(("size", "bins"), [((14, 9), 7), ((3, 5), 7), ((6, 6), 1)])
def test_against_loops(size, bins):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    y = adaptive_avg_pool(x, bins)
    np.testing.assert_allclose(y, by_loops(x, bins), rtol=1e-5, atol=1e-6)


def test_gradient_is_each_pixels_share_of_its_bins():
    grad = jax.grad(lambda x: adaptive_avg_pool(x, 2).sum())(jnp.ones((1, 1, 3, 1)))
    # Two equal rows of bins; the middle pixel is in both bins of a row.
    np.testing.assert_allclose(grad[0, 0, :, 0], [1.0, 2.0, 1.0], rtol=1e-6)


def test_bfloat16_is_summed_in_float32():
    # A running sum in bfloat16 would stop at 256.
    y = adaptive_avg_pool(jnp.ones((1, 40, 40, 1), jnp.bfloat16), 1)
    assert y.dtype == jnp.bfloat16
    assert y.item() == 1.0

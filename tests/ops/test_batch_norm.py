"""Batch normalisation against Flax's, with JAX's derivative, and sums done by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import op_checks
import pytest

from eseg_jax.ops.batch_norm import batch_norm

EPSILON = 1e-3


def normalised(x, scale, bias):
    return batch_norm(x, scale, bias, EPSILON)[0]


def reference(x, scale, bias):
    module = nn.BatchNorm(use_running_average=False, epsilon=EPSILON)
    variables = {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": jnp.zeros_like(bias), "var": jnp.ones_like(bias)},
    }
    return module.apply(variables, x, mutable=["batch_stats"])[0]


def inputs(n=4):
    widths, means = (jnp.arange(i, i + 6).reshape(1, 1, 1, 6) for i in (1, -3))
    x = op_checks.normal(n, 3, 5, 6) * widths + means
    return x, 1 + op_checks.normal(6) / 4, op_checks.normal(6, seed=1)


def test_reference():
    op_checks.check_reference(normalised, reference, *inputs())


def test_vmap():
    op_checks.check_vmap(normalised, *inputs())


def test_bfloat16():
    x, scale, bias = inputs()

    # bfloat16 features beside float32 parameters, as networks compute.
    def mixed(x):
        return normalised(x, scale, bias)

    op_checks.check_bfloat16(mixed, x)


def test_sharded(mesh):
    op_checks.check_sharded(mesh, normalised, *inputs())


@pytest.mark.tpu_aot
def test_tpu(monkeypatch):
    op_checks.check_tpu(monkeypatch, normalised, *inputs())


def test_statistics():
    x = jnp.array([1.0, 3.0, 5.0, 7.0]).reshape(2, 2, 1, 1)
    y, mean, variance = batch_norm(x, jnp.array([2.0]), jnp.array([10.0]), 4.0)
    assert (mean.item(), variance.item()) == (4, 5)
    np.testing.assert_allclose(y.ravel(), [8, 10 - 2 / 3, 10 + 2 / 3, 12], rtol=1e-6)


def test_a_constant_channel_has_a_finite_gradient():
    x = jnp.full((2, 3, 3, 1), 7.0)
    gradient = jax.grad(lambda x: normalised(x, jnp.ones(1), jnp.zeros(1))[0, 0, 0, 0])
    wanted = jnp.full(x.shape, -1 / 18).at[0, 0, 0, 0].add(1) / np.sqrt(EPSILON)
    np.testing.assert_allclose(gradient(x), wanted, rtol=1e-5)

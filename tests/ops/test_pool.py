"""Pooling against the library's form and values picked by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import op_checks
import pytest

from eseg_jax.ops.pool import avg_pool, avg_pool_reference, max_pool, max_pool_reference

CASES = {
    "even": ((2, 6, 8, 3), {}),
    "odd": ((2, 7, 5, 3), {}),
    "pixel": ((2, 1, 1, 3), {}),
    "PyTorch": ((2, 8, 7, 3), {"padding": ((1, 1), (1, 1))}),
    "ceil mode": ((2, 8, 6, 3), {"padding": ((1, 2), (1, 2))}),
    "overlap": ((1, 5, 6, 2), {"strides": (1, 1)}),
    "gaps": ((1, 7, 8, 2), {"window": (2, 1), "strides": (3, 2)}),
}
FORMS = {"max": (max_pool, max_pool_reference), "avg": (avg_pool, avg_pool_reference)}


def make(case, pool):
    shape, options = CASES[case]
    return op_checks.normal(*shape), functools.partial(pool, **options), options


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_reference(case, form):
    pool, reference = FORMS[form]
    x, function, options = make(case, pool)
    op_checks.check_reference(function, functools.partial(reference, **options), x)


def test_values():
    x = -jnp.arange(1.0, 17.0).reshape(1, 4, 4, 1)
    # SAME pads an even size below and on the right; padding neither wins nor counts.
    np.testing.assert_array_equal(max_pool(x)[0, :, :, 0], [[-1, -3], [-9, -11]])
    np.testing.assert_allclose(
        avg_pool(x)[0, :, :, 0], [[-6, -7.5], [-12, -13.5]], rtol=1e-6
    )


def test_first_of_equal_values_gets_the_gradient():
    x = jnp.zeros((1, 2, 4, 1))
    gradient = jax.grad(lambda x: max_pool(x, window=(2, 2)).sum())(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[1, 0, 1, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("form", FORMS)
def test_vmap(form):
    x, function, _ = make("odd", FORMS[form][0])
    op_checks.check_vmap(function, x)


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16(form):
    x, function, _ = make("odd", FORMS[form][0])
    op_checks.check_bfloat16(function, x)


@pytest.mark.parametrize("form", FORMS)
def test_sharded(mesh, form):
    x, function, _ = make("odd", FORMS[form][0])
    op_checks.check_sharded(mesh, function, jnp.concatenate([x, x - 1]))


@pytest.mark.tpu_aot
@pytest.mark.parametrize("form", FORMS)
def test_tpu(monkeypatch, form):
    x, function, _ = make("even", FORMS[form][0])
    op_checks.check_tpu(monkeypatch, function, jnp.concatenate([x, x]))

"""Operations as single equations of a trace."""

import jax
import jax.numpy as jnp
import numpy as np

from eseg_jax.ops import depthwise_conv, resize_bilinear
from eseg_jax.ops.operation import as_nodes


def _two(x, kernel):
    return resize_bilinear(depthwise_conv(x, kernel, strides=(2, 2)), (7, 5))


def _arrays():
    random = np.random.default_rng(0)
    shapes = ((1, 8, 6, 3), (3, 3, 1, 3))
    return [jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes]


def test_one_equation_each_with_its_options():
    with as_nodes():
        jaxpr = jax.make_jaxpr(lambda *arrays: _two(*arrays))(*_arrays())
    first, second = jaxpr.eqns
    assert first.params["function"].__name__ == "depthwise_conv"
    assert first.params["strides"] == (2, 2) and first.params["padding"] == "SAME"
    assert first.outvars[0].aval.shape == (1, 4, 3, 3)
    assert second.params["function"].__name__ == "resize_bilinear"
    assert second.params["size"] == (7, 5)
    assert second.outvars[0].aval.shape == (1, 7, 5, 3)


def test_the_values_stay():
    arrays = _arrays()
    with as_nodes():
        found = _two(*arrays)
    np.testing.assert_array_equal(found, _two(*arrays))
    names = {eqn.primitive.name for eqn in jax.make_jaxpr(_two)(*arrays).eqns}
    assert "operation" not in names

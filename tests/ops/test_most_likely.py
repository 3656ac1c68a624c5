"""The label of each pixel, in the form of every platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eseg_jax.ops.most_likely import most_likely, most_likely_reference


def test_by_hand():
    logits = jnp.array([[0.5, -1.0, 0.2], [-3.0, -2.0, -2.5], [1.0, 4.0, 4.0]])
    labels = most_likely(logits.reshape(1, 1, 3, 3))
    # Where two are equal the lower class wins.
    assert labels.dtype == jnp.uint8
    assert labels.tolist() == [[[0, 1, 1]]]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_as_argmax(dtype):
    # Few values, so that many are equal.
    logits = np.random.default_rng(0).integers(-4, 4, (2, 5, 7, 19))
    logits = jnp.asarray(logits, dtype)
    found = jax.jit(most_likely)(logits)
    np.testing.assert_array_equal(found, np.argmax(logits, axis=-1))
    np.testing.assert_array_equal(found, most_likely_reference(logits))

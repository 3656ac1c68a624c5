import os
import subprocess
import sys

import jax
import numpy as np

from eseg_jax import rng


def data(key):
    return np.asarray(jax.random.key_data(key)).tolist()


def test_folds_seed_name_and_step():
    # The check value that CRC-32 is published with.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 0xCBF43926), 7)
    assert data(rng.stream(3, "123456789", 7)) == data(key)


def test_each_argument_counts():
    keys = [
        rng.stream(0, "a", 0),
        rng.stream(1, "a", 0),
        rng.stream(0, "b", 0),
        rng.stream(0, "a", 1),
    ]
    assert len({tuple(data(key)) for key in keys}) == 4


def test_traced_step_gives_the_same_typed_key():
    key = jax.jit(lambda step: rng.stream(0, "a", step))(5)
    assert jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key)
    assert data(key) == data(rng.stream(0, "a", 5))


def test_does_not_depend_on_the_process():
    command = (
        "import jax; from eseg_jax import rng;"
        "print(jax.random.key_data(rng.stream(0, 'a', 5)).tolist())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", command],
        env={**os.environ, "PYTHONHASHSEED": "123"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.strip() == str(data(rng.stream(0, "a", 5)))

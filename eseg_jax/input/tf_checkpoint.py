"""TensorFlow checkpoints -> arrays by name."""

from __future__ import annotations

import numpy as np
from etils import epath

from eseg_jax.input.datasets import InputError
from eseg_jax.input.tf_cpu import tf


def read(path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint by name, in their own types.

    Args:
      path: its prefix or .index file, or the folder that has its "checkpoint" file.

    Raises:
      InputError: it is cut short, or not there.
    """
    try:
        reader = tf.train.load_checkpoint(str(epath.Path(path)).removesuffix(".index"))
        # Strings, with which newer checkpoints describe themselves, are no weights.
        types = reader.get_variable_to_dtype_map()
        return {
            name: np.asarray(reader.get_tensor(name))
            for name, dtype in types.items()
            if dtype != tf.string
        }
    except (ValueError, tf.errors.OpError) as error:
        raise InputError(
            f"{path} cannot be read ({str(error).splitlines()[0]}); it may be cut "
            "short: fetch all of its files again."
        ) from error

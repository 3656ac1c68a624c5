"""Random streams by name and step: nothing stored, nothing split in the loop."""

import zlib

import jax


def stream(seed: int, name: str, step: int | jax.Array) -> jax.Array:
    """The typed key of one named random stream at one step.

    fold_in(fold_in(key(seed), hash(name)), step): streams of different names are
    independent, and a resumed run draws what an unbroken one draws.

    Args:
      seed: of the run.
      name: of the stream, e.g. "drop_connect".
      step: non-negative integer, python or traced.

    Returns:
      A scalar key array (`jax.random.key`).
    """
    # Not hash(): it changes with PYTHONHASHSEED, so from process to process.
    name_hash = zlib.crc32(name.encode())
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), name_hash), step)

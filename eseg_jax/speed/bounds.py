"""What a device would need at least: its measured rates, and a network's floor."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp

from eseg_jax.models import cost
from eseg_jax.speed.measure import Protocol

# A matrix product and a copy that are large for any device, and small enough for it.
_PRODUCT, _COPY = 2048, 2**24


def device_rates(precision: str) -> dict[str, float]:
    """Multiply-adds and bytes per second that the first device reaches."""
    dtype = jnp.dtype(precision)

    def least(function, x):
        function = jax.jit(function)
        times = []
        for _ in range(6):
            start = time.perf_counter()
            jax.block_until_ready(function(x))
            times.append(time.perf_counter() - start)
        return min(times[1:])

    square = jnp.ones((_PRODUCT, _PRODUCT), dtype)
    numbers = jnp.ones(_COPY, dtype)
    return {
        "macs_per_second": _PRODUCT**3 / least(lambda x: x @ x, square),
        "bytes_per_second": 2 * numbers.nbytes / least(lambda x: x + 1, numbers),
    }


def floor(
    name: str, protocol: Protocol, rates: dict[str, float], **options
) -> dict[str, float]:
    """The least milliseconds that the convolutions of a call can take.

    {"floor_ms", "macs_ms", "bytes_ms"}: the sum over the layers of the larger bound,
    and of each of the two. The rest of the network counts as free.
    """
    itemsize, batch = jnp.dtype(protocol.precision).itemsize, protocol.batch
    total = macs = moved = 0.0
    layers = cost.layers(name, protocol.size, protocol.classes, **options)
    for layer in layers.values():
        compute = batch * layer.macs / rates["macs_per_second"]
        numbers = batch * layer.activations + layer.weights
        move = itemsize * numbers / rates["bytes_per_second"]
        macs, moved, total = macs + compute, moved + move, total + max(compute, move)
    return {"floor_ms": 1e3 * total, "macs_ms": 1e3 * macs, "bytes_ms": 1e3 * moved}

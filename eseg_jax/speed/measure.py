"""Latency and throughput of a network, and the conditions they hold under."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

_WARM_UP_CALLS = 10
_WARM_UP_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Under which conditions a network is timed.

    Attributes:
      backend: a key of `backends.BACKENDS`.
      precision: compute type; weights and logits are float32 with "jax".
      size: (height, width) of the images.
      batch: images in a call.
      classes: channels of the logits.
      folded: whether batch normalisation is part of the convolutions.
      end: "logits" at the network's stride, or "labels", which enlarges them to the
        size of the image and takes the largest.
      host_copy: whether the result is copied to the host.
      compiled: torch.compile; jax always compiles.
    """

    backend: str = "jax"
    precision: str = "float32"
    size: tuple[int, int] = (512, 1024)
    batch: int = 1
    classes: int = 19
    folded: bool = True
    end: str = "labels"
    host_copy: bool = False
    compiled: bool = False


def describe(protocol: Protocol, device: str, versions: dict[str, str]) -> str:
    """The conditions of a table, for its head."""
    network = "batch normalisation folded" if protocol.folded else "not folded"
    end = {
        "logits": "to logits at the network's stride",
        "labels": "with enlargement to the image's size and argmax",
    }[protocol.end]
    copy = "copied to the host" if protocol.host_copy else "left on the device"
    backend = ", ".join(f"{k} {v}" for k, v in versions.items())
    if protocol.backend == "torch":
        backend += ", compiled" if protocol.compiled else ", eager"
    return (
        f"{device}; {backend}; {protocol.precision}; {protocol.batch} x "
        f"{protocol.size[0]}x{protocol.size[1]}, {protocol.classes} classes; "
        f"{network}; {end}; result {copy}."
    )


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A network that is ready to be timed.

    Attributes:
      start: begins a call and returns its result, perhaps before that is finished.
      finish: waits for a result, and copies it to the host if that is asked for.
      device: what it runs on, in words.
      versions: of the libraries.
      compile_seconds: tracing and compiling, where that is apart from running.
    """

    start: Callable[[], Any]
    finish: Callable[[Any], Any]
    device: str
    versions: dict[str, str]
    compile_seconds: float | None = None

    def __call__(self) -> Any:
        return self.finish(self.start())


def measure(prepared: Prepared, seconds: float) -> dict[str, float]:
    """Latency and throughput of a network, each timed for about `seconds`.

    At least ten calls or a second warm it up, and at least three are timed.
    """
    begun, calls = time.perf_counter(), 0
    while calls < _WARM_UP_CALLS and time.perf_counter() - begun < _WARM_UP_SECONDS:
        prepared()
        calls += 1
    times, begun = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        prepared()
        times.append(time.perf_counter() - start)
    begun = time.perf_counter()
    # Two under way at a time: more only fill the memory.
    waiting = prepared.start()
    for _ in times[1:]:
        following = prepared.start()
        prepared.finish(waiting)
        waiting = following
    prepared.finish(waiting)
    total = time.perf_counter() - begun
    return {
        "warm_up_calls": calls,
        "calls": len(times),
        "median_ms": 1e3 * statistics.median(times),
        "p95_ms": 1e3 * float(np.percentile(times, 95)),
        "min_ms": 1e3 * min(times),
        "calls_per_second": len(times) / total,
    }

"""Networks ready to be timed: what a call gives, what is timed, and the floor."""

import dataclasses

import jax
import numpy as np
import pytest

from eseg_jax.models import cost
from eseg_jax.speed import backends, bounds
from eseg_jax.speed.measure import Prepared, Protocol, measure

# ESeg-Lite-S, shrunk until it compiles in seconds.
TINY = {"width": 0.1, "depth": 0.1, "features": 8, "max_level": 5}
PROTOCOL = Protocol(size=(64, 96), batch=2, classes=3)


@pytest.fixture(scope="module")
def labels():
    return backends.prepare_jax("eseg_lite_s", PROTOCOL, **TINY)


def test_a_call_ends_with_labels_of_the_image_size(labels):
    result = labels()
    assert result.shape == (2, 64, 96)
    assert result.dtype == np.uint8
    assert isinstance(result, jax.Array)
    assert labels.compile_seconds > 0
    assert labels.versions == {"jax": jax.__version__}


def test_an_export_gives_the_same_labels(labels):
    pytest.importorskip("onnxruntime")
    protocol = dataclasses.replace(PROTOCOL, backend="onnxruntime")
    exported = backends.prepare_export("eseg_lite_s", protocol, **TINY)
    assert list(exported.versions) == ["onnxruntime"]
    # Rounding may turn a tie.
    assert np.mean(exported() == labels()) > 0.999
    assert len(np.unique(labels())) > 1


def test_every_call_is_timed_to_its_end():
    calls, finished = [], []

    def start():
        calls.append(None)
        return len(calls)

    measured = measure(Prepared(start, finished.append, "a device", {}), seconds=0.0)
    # Ten to warm up, three one by one, three with two under way.
    assert measured["warm_up_calls"] == 10
    assert measured["calls"] == 3
    assert finished == list(range(1, 17))
    assert measured["min_ms"] <= measured["median_ms"] <= measured["p95_ms"]


def test_floor_is_the_larger_bound_of_each_layer():
    layers = cost.layers("eseg_lite_s", PROTOCOL.size, 3, **TINY)
    assert sum(layer.macs for layer in layers.values()) == (
        cost.count("eseg_lite_s", PROTOCOL.size, 3, **TINY).macs
    )
    # 3 channels at 64x96 in, 8 at 32x48 out, 3x3 taps.
    stem = layers["encoder/stem/conv"]
    assert stem.macs == 32 * 48 * 8 * 27
    assert stem.activations == 64 * 96 * 3 + 32 * 48 * 8
    assert stem.weights == 27 * 8

    def floor(macs, moved):
        rates = {"macs_per_second": macs, "bytes_per_second": moved}
        return bounds.floor("eseg_lite_s", PROTOCOL, rates, **TINY)

    only_macs = floor(1e9, 1e30)
    total = sum(layer.macs for layer in layers.values())
    assert only_macs["floor_ms"] == pytest.approx(2 * total / 1e6)
    # Two images, one kernel, four bytes each.
    moved = sum(2 * layer.activations + layer.weights for layer in layers.values())
    assert floor(1e30, 1e9)["floor_ms"] == pytest.approx(4 * moved / 1e6)
    mixed = floor(1e9, 1e9)
    assert max(mixed["macs_ms"], mixed["bytes_ms"]) < mixed["floor_ms"]
    assert mixed["floor_ms"] < mixed["macs_ms"] + mixed["bytes_ms"]

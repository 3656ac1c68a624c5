"""Timing the inference of networks: what is run, what is said and what is counted."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from eseg_jax.models import cost
from eseg_jax.tools import benchmark
from eseg_jax.tools.benchmark import Prepared, Protocol

# ESeg-Lite-S, shrunk until it compiles in seconds.
TINY = {"width": 0.1, "depth": 0.1, "features": 8, "max_level": 5}
PROTOCOL = Protocol(size=(64, 96), batch=2, classes=3)


@pytest.fixture(scope="module")
def labels():
    return benchmark.prepare_jax("eseg_lite_s", PROTOCOL, **TINY)


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
    exported = benchmark.prepare_export("eseg_lite_s", protocol, **TINY)
    assert list(exported.versions) == ["onnxruntime"]
    # Rounding may turn a tie.
    assert np.mean(exported() == labels()) > 0.999
    assert len(np.unique(labels())) > 1


def test_every_call_is_timed_to_its_end():
    calls, finished = [], []

    def start():
        calls.append(None)
        return len(calls)

    measured = benchmark.measure(
        Prepared(start, finished.append, "a device", {}), seconds=0.0
    )
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
        return benchmark.floor("eseg_lite_s", PROTOCOL, rates, **TINY)

    only_macs = floor(1e9, 1e30)
    total = sum(layer.macs for layer in layers.values())
    assert only_macs["floor_ms"] == pytest.approx(2 * total / 1e6)
    # Two images, one kernel, four bytes each.
    moved = sum(2 * layer.activations + layer.weights for layer in layers.values())
    assert floor(1e30, 1e9)["floor_ms"] == pytest.approx(4 * moved / 1e6)
    mixed = floor(1e9, 1e9)
    assert max(mixed["macs_ms"], mixed["bytes_ms"]) < mixed["floor_ms"]
    assert mixed["floor_ms"] < mixed["macs_ms"] + mixed["bytes_ms"]


def test_table_and_json(labels, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(benchmark.BACKENDS, "jax", lambda name, protocol: labels)
    monkeypatch.setattr(benchmark.job, "keep_memory", lambda: None)
    rates = {"macs_per_second": 1e9, "bytes_per_second": 1e9}
    monkeypatch.setattr(benchmark, "device_rates", lambda precision: rates)
    file = tmp_path / "rows.json"
    benchmark.main(
        ["eseg_lite_s", "--size=64x96", "--seconds=0", f"--json={file}", "--batch=2"]
    )
    protocol, head, line = capsys.readouterr().out.splitlines()
    assert labels.device in protocol and f"jax {jax.__version__}" in protocol
    assert "float32; 2 x 64x96, 19 classes; batch normalisation folded" in protocol
    assert "with enlargement to the image's size and argmax" in protocol
    assert "left on the device" in protocol
    assert head.split()[:2] == ["model", "median"]
    (row,) = json.loads(file.read_text())
    assert line.split()[0] == row["name"] == "eseg_lite_s"
    assert row["protocol"]["size"] == [64, 96]
    assert row["images_per_second"] == pytest.approx(2 * row["calls_per_second"])
    assert row["floor_ms"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_net"], "There is no model 'no_such_net'"),
        (["eseg_s", "--batch=0"], "--batch=0 must be 1 or more"),
        (["eseg_s", "--size=64"], "is not HEIGHTxWIDTH"),
        (["eseg_s", "--compile"], "jax always compiles"),
        (["eseg_s", "--backend=litert", "--unfolded"], "leave out --unfolded"),
    ],
)
def test_wrong_arguments(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(benchmark.job, "keep_memory", lambda: None)
    with pytest.raises(SystemExit):
        benchmark.main(arguments)
    assert message in capsys.readouterr().err

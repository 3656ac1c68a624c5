"""The command that times inference: its table, its rows, its arguments."""

import json

import pytest

from eseg_jax.speed.measure import Prepared
from eseg_jax.tools import benchmark


def test_table_and_json(monkeypatch, capsys, tmp_path):
    prepared = Prepared(lambda: None, lambda result: result, "a device", {"jax": "1.2"})
    monkeypatch.setitem(benchmark.BACKENDS, "jax", lambda name, protocol: prepared)
    monkeypatch.setattr(benchmark.job, "keep_memory", lambda: None)
    rates = {"macs_per_second": 1e9, "bytes_per_second": 1e9}
    monkeypatch.setattr(benchmark.bounds, "device_rates", lambda precision: rates)
    file = tmp_path / "rows.json"
    benchmark.main(
        ["eseg_lite_s", "--size=64x96", "--seconds=0", f"--json={file}", "--batch=2"]
    )
    protocol, head, line = capsys.readouterr().out.splitlines()
    assert protocol.startswith("a device; jax 1.2; ")
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

"""The command on a run of no steps."""

import json

import numpy as np
import pytest
from PIL import Image

import eseg_jax
from eseg_jax import checkpoint
from eseg_jax.export import compare
from eseg_jax.init_from import FILE
from eseg_jax.tools import export
from eseg_jax.trees import flatten_names

pytest.importorskip("onnxruntime", reason="tools.export is tested with onnxruntime")


def test_a_run_with_its_dataset(saved_run, tmp_path, capsys):
    workdir, _, _ = saved_run
    options = [f"--output={tmp_path}", "--limit=2", "--enlarge", "--weights=raw"]
    assert export.main([f"--workdir={workdir}", "--format=onnx", *options]) == 0
    noted = json.loads((tmp_path / "model.onnx.json").read_text())
    assert noted["model"] == "eseg_lite_s" and noted["size"] == [64, 64]
    assert noted["class_names"][0] == "way"
    result = noted["comparison"]
    assert result["images"] == 2 and result["passed"]
    assert result["max_difference"] <= 1e-3 and result["agreement"] >= 0.999
    assert result["miou"] == pytest.approx(result["reference_miou"], abs=0.1)
    assert '"passed": true' in capsys.readouterr().out

    image = np.full((64, 64, 3), 90, np.uint8)
    image[20:40, 10:50] = (200, 40, 120)
    found = eseg_jax.load(tmp_path / "model.onnx")(image)
    wanted = eseg_jax.load(workdir, weights="raw")(image)
    np.testing.assert_allclose(found.logits, wanted.logits, rtol=0, atol=1e-3)


def test_a_file_of_weights_and_a_failed_comparison(
    saved_run, tmp_path, capsys, monkeypatch
):
    workdir, _, _ = saved_run
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    monkeypatch.setitem(compare.LIMITS, "", compare.Limits(-1.0, 0.999))
    arguments = [
        *(f"--checkpoint={workdir}", "--format=onnx", "--uint8", "--batch=dynamic"),
        *(f"--images={tmp_path}/a.png", f"--output={tmp_path}"),
    ]
    assert export.main(arguments) == 1
    assert "model.onnx differs from its network" in capsys.readouterr().err
    noted = json.loads((tmp_path / "model.onnx.json").read_text())
    assert not noted["comparison"]["passed"]
    assert noted["comparison"]["miou"] is None

    folder = checkpoint.find(workdir)
    arrays = flatten_names(checkpoint.read_variables(folder, None, "ema"))
    np.savez(tmp_path / FILE, **arrays)
    arguments[0] = f"--weights={tmp_path / FILE}"
    assert export.main([*arguments, "--model=sfnet_df1"]) == 2
    assert "does not fit sfnet_df1: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --workdir"),
        (["--workdir=a", "--weights=b.npz", "--model=eseg_s"], "give --workdir"),
        (["--weights=b.npz"], "give --workdir"),
        (["--weights=b.npz", "--model=eseg_s"], "give --images"),
        (["--workdir=a", "--quantize=int8"], "--calibration=IMAGES go together"),
        (["--workdir=a", "--size=3"], "'3' is no size"),
        (["--workdir=a", "--batch=0"], "'0' is neither"),
    ],
)
def test_mistakes_are_named(arguments, words, capsys):
    with pytest.raises(SystemExit):
        export.main([*arguments, "--format=onnx", "--output=out"])
    assert words in capsys.readouterr().err

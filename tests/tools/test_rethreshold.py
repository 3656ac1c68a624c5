"""New labels, and the sweep, from stored confidence."""

import json

import numpy as np
import pytest
from PIL import Image

from eseg_jax.input import InputError, pseudo
from eseg_jax.tools import rethreshold

_CLASSES = ("road", "sky")


@pytest.fixture
def folder(tmp_path):
    """One image, classes 0 0 1 1, confidence bytes 100 200 150 255, labels of 0.5."""
    out = tmp_path / "pseudo"
    argmax, confidence = (
        np.array([row], np.uint8) for row in ([0, 0, 1, 1], [100, 200, 150, 255])
    )
    for name, pixels in (
        ("argmax", argmax),
        ("confidence", confidence),
        ("labels", pseudo.keep(argmax, confidence, pseudo.levels(0.5, (), 2))),
    ):
        (out / name / "a").mkdir(parents=True)
        Image.fromarray(pixels).save(out / name / "a" / "x.png")
    records = [
        {"name": "a/x", "image": "a/x.jpg", "predicted": [2, 2], "kept": [1, 2]},
        {"name": "torn", "image": "torn.jpg", "broken": "torn.jpg: no"},
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (out / "manifest.jsonl").write_text(text)
    meta = {
        "class_names": _CLASSES,
        "root": str(tmp_path / "images"),
        "threshold": 0.5,
        "coverage": 0.75,
    }
    (out / "pseudo.json").write_text(json.dumps(meta))
    return out


def _labels(folder):
    return np.asarray(Image.open(folder / "labels" / "a" / "x.png")).tolist()


def test_new_labels_are_those_of_the_threshold(folder, tmp_path):
    assert _labels(folder) == [[255, 0, 1, 1]]
    meta = rethreshold.rethreshold(
        folder, tmp_path / "b", lambda *_: pseudo.levels(0, (0.7, 0.9), 2)
    )
    assert _labels(tmp_path / "b") == [[255, 0, 255, 1]]
    assert meta["coverage"] == 0.5 and meta["classes"]["sky"]["kept"] == 1
    assert pseudo.read_meta(tmp_path / "b") == meta and "threshold" not in meta
    # And from those, lower ones: everything is still there.
    rethreshold.rethreshold(
        tmp_path / "b", tmp_path / "c", lambda *_: pseudo.levels(0, (), 2)
    )
    assert _labels(tmp_path / "c") == [[0, 0, 1, 1]]
    assert [record["name"] for record in pseudo.read_manifest(tmp_path / "c")] == [
        "a/x",
        "torn",
    ]
    with pytest.raises(InputError, match="has pseudo-labels already"):
        rethreshold.rethreshold(folder, tmp_path / "b", None)


def test_a_student_finds_image_labels_and_confidence(folder, tmp_path):
    from ml_collections import ConfigDict

    rethreshold.rethreshold(
        folder, tmp_path / "b", lambda *_: pseudo.levels(0.9, (), 2)
    )
    dataset = ConfigDict({"pseudo": str(tmp_path / "b"), "pseudo_root": ""})
    found = pseudo.open_folder(dataset)
    (example,), (confidence,) = found.files(answers=False)
    assert example.image == str(tmp_path / "images" / "a" / "x.jpg")
    assert example.label == str(tmp_path / "b" / "labels" / "a" / "x.png")
    assert confidence == str(folder / "confidence" / "a" / "x.png")
    (example,), _ = found.files(answers=True)
    assert example.label == str(folder / "argmax" / "a" / "x.png")


def test_sweep_by_hand(folder, tmp_path):
    records = pseudo.read_manifest(folder)
    truth = np.array([[1, 0, 255, 1]], np.uint8)
    counts = rethreshold.count(folder, records, 2, [truth, None])
    rows = {row["threshold"]: row for row in rethreshold.sweep(counts)}
    assert rows[0.0] == {"threshold": 0, "coverage": 1, "accuracy": 2 / 3}
    assert rows[0.5] == {"threshold": 0.5, "coverage": 0.75, "accuracy": 1}
    assert rows[0.9] == {"threshold": 0.9, "coverage": 0.25, "accuracy": 1}
    without = rethreshold.sweep(rethreshold.count(folder, records[:1], 2))
    assert [r["coverage"] for r in without] == [r["coverage"] for r in rows.values()]
    rethreshold.write_sweep(str(tmp_path / "sweep"), list(rows.values()))
    assert (tmp_path / "sweep.csv").read_text().splitlines()[51] == "0.5,0.75,1"
    svg = (tmp_path / "sweep.svg").read_text()
    assert svg.count("<path class=") > 2 and "accuracy</text>" in svg
    with pytest.raises(InputError, match="is 2x1 and its pseudo-label 4x1"):
        rethreshold.count(folder, records[:1], 2, [truth[:, :2]])

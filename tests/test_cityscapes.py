"""Category IoU and iIoU against cityscapesScripts itself."""

import argparse
import math
import warnings

import numpy as np
import pytest
from PIL import Image

from eseg_jax import cityscapes
from eseg_jax.input import datasets

_INFO = datasets.get("cityscapes")
_LABEL_IDS = np.zeros(256, np.uint8)
for _label_id, _train_id in _INFO.labels[0].mapping.items():
    if _train_id != 255:
        _LABEL_IDS[_train_id] = _label_id


@pytest.fixture
def official(monkeypatch):
    # cityscapesScripts 2.3 still uses this name, which NumPy 2.4 has dropped.
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    with warnings.catch_warnings():
        # Its source has invalid escapes, its dependencies announce removals.
        warnings.simplefilter("ignore")
        from cityscapesscripts.evaluation import (
            evalPixelLevelSemanticLabeling as module,
        )
    return module


def official_scores(official, pairs):
    """Everything the script prints, for (truth, prediction) PNGs of label ids."""
    args = argparse.Namespace(evalInstLevelScore=True, evalPixelAccuracy=False)
    args.avgClassSize = official.args.avgClassSize
    matrix, stats = official.generateMatrix(args), official.generateInstanceStats(args)
    for truth, prediction in pairs:
        official.evaluatePair(str(prediction), str(truth), matrix, stats, {}, args)
    names = {i: official.id2label[i].name for i in args.evalLabels}
    categories = official.category2labels
    return {
        "category_iou": {
            c: official.getIouScoreForCategory(c, matrix, args) for c in categories
        },
        "instance_iou": {
            names[i]: official.getInstanceIouScoreForLabel(i, matrix, stats, args)
            for i in names
        },
        "category_instance_iou": {
            c: official.getInstanceIouScoreForCategory(c, matrix, stats, args)
            for c in categories
        },
    }


def our_scores(pairs):
    table = _INFO.labels[0].table()
    files = {str(truth): cityscapes.instance_file(str(truth)) for truth, _ in pairs}
    counts = cityscapes.InstanceCounts(_INFO.class_names, files)
    matrix = np.zeros((19, 19), np.int64)
    for files in pairs:
        truth, guess = (table[np.asarray(Image.open(file))] for file in files)
        counts.add(str(files[0]), guess)
        np.add.at(matrix, (truth[truth < 19], guess[truth < 19]), 1)
    return cityscapes.category_scores(matrix, _INFO.class_names) | counts.scores(matrix)


def assert_same(official, pairs):
    theirs, ours = official_scores(official, pairs), our_scores(pairs)
    for kind, scores in theirs.items():
        known = {k: v for k, v in scores.items() if not math.isnan(v)}
        assert {k for k, v in ours[kind].items() if v is not None} == known.keys()
        for name, score in known.items():
            assert abs(ours[kind][name] - score) <= 1e-12, (kind, name)
        mean = sum(known.values()) / len(known)
        assert abs(ours[kind.replace("iou", "miou")] - mean) <= 1e-12
    return ours


def random_pair(draw, folder, name, shape):
    """Truth with every id and with instances, and a prediction that is half right."""
    truth = draw.integers(0, 34, shape).astype(np.uint8)
    truth = np.repeat(np.repeat(truth, 4, axis=0), 5, axis=1)
    instances = truth.astype(np.int32)
    single = (truth >= 24) & (draw.random(truth.shape) < 0.9)
    instances[single] = instances[single] * 1000 + draw.integers(0, 3, single.sum())
    guess = _LABEL_IDS[draw.integers(0, 18, truth.shape)]  # bicycle: never predicted
    right = np.isin(truth, _LABEL_IDS[:18]) & (draw.random(truth.shape) < 0.5)
    guess[right] = truth[right]
    files = [folder / f"{name}_gtFine_labelIds.png", folder / f"{name}_guess.png"]
    Image.fromarray(truth).save(files[0])
    Image.fromarray(guess).save(files[1])
    Image.fromarray(instances.astype(np.uint16)).save(
        folder / f"{name}_gtFine_instanceIds.png"
    )
    return files


def test_equals_cityscapesscripts_on_random_pairs(official, tmp_path):
    draw = np.random.default_rng(0)
    pairs = [random_pair(draw, tmp_path, f"a_{i}", (9, 11)) for i in range(3)]
    ours = assert_same(official, pairs)
    assert ours["instance_iou"]["bicycle"] == 0
    assert 0.2 < ours["instance_iou"]["car"] < 0.8


def test_equals_cityscapesscripts_on_real_labels(official, real_data, tmp_path):
    found = sorted(real_data.glob("cityscapes_mini/gtFine/*/*/*_instanceIds.png"))
    truths = [
        file.with_name(file.name.replace("instance", "label")) for file in found[:3]
    ]
    table = _INFO.labels[0].table()
    pairs = []
    for i, truth in enumerate(truths):
        # The truth of another image, moved: wrong in every class, right in most.
        labels = table[np.asarray(Image.open(truths[i]))]
        other = np.roll(np.where(labels == 255, 0, labels), 9, axis=1)
        pairs.append((truth, tmp_path / truth.name))
        Image.fromarray(_LABEL_IDS[other]).save(pairs[-1][1])
    ours = assert_same(official, pairs)
    assert 0.2 < ours["instance_miou"] < 0.99


def test_absent_instances_have_no_score():
    counts = cityscapes.InstanceCounts(_INFO.class_names, {})
    scores = counts.scores(np.zeros((19, 19), np.int64))
    assert scores["instance_miou"] is None
    assert set(scores["instance_iou"].values()) == {None}


def test_instances_of_another_size_are_refused(tmp_path):
    file = tmp_path / "a_gtFine_instanceIds.png"
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(file)
    counts = cityscapes.InstanceCounts(_INFO.class_names, {"a": str(file)})
    with pytest.raises(ValueError, match=r"\(6, 4\) and the prediction \(5, 4\)"):
        counts.add("a", np.zeros((4, 5), np.uint8))

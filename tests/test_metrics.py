import argparse
import json
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image

from eseg_jax import metrics
from eseg_jax.metrics import confusion_matrix, summarize


def random_pair(num_classes, shape, seed=0):
    draw = np.random.default_rng(seed)
    labels = draw.choice([*range(num_classes), 255], size=shape).astype(np.uint8)
    predictions = draw.integers(0, num_classes, shape).astype(np.int32)
    return labels, predictions


def counted(labels, predictions, num_classes):
    matrix = np.zeros((num_classes, num_classes), np.int64)
    valid = labels < num_classes
    np.add.at(matrix, (labels[valid], predictions[valid]), 1)
    return matrix


# ---------------------------------------------------------------- confusion_matrix


def test_rows_are_the_truth_and_ignored_labels_are_dropped():
    labels = jnp.array([[[0, 0, 1], [255, 7, 1]]], jnp.int32)
    predictions = jnp.array([[[0, 1, 1], [1, 0, 1]]], jnp.int32)
    matrix = confusion_matrix(labels, predictions, 2)
    assert matrix.dtype == jnp.int32
    assert matrix.tolist() == [[1, 1], [0, 2]]


@pytest.mark.parametrize("num_classes", [11, 19, 150])
@pytest.mark.parametrize(
    "count",
    [confusion_matrix, metrics._count_by_matmul],
    ids=["this platform's form", "TPU's form"],
)
def test_counts_equal_numpy(count, num_classes):
    labels, predictions = random_pair(num_classes, (2, 30, 40))
    if count is not confusion_matrix:
        labels, predictions = labels.ravel(), predictions.ravel()
    matrix = jax.jit(count, static_argnums=2)(labels, predictions, num_classes)
    assert matrix.dtype == jnp.int32
    np.testing.assert_array_equal(matrix, counted(labels, predictions, num_classes))


def test_tpu_multiplies_and_does_not_scatter():
    pair = [jax.ShapeDtypeStruct((2, 8, 8), dtype) for dtype in (jnp.uint8, jnp.int32)]
    traced = jax.jit(confusion_matrix, static_argnums=2).trace(*pair, 19)
    tpu = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "dot_general" in tpu and "scatter" not in tpu
    cpu = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "scatter" in cpu and "dot_general" not in cpu


def test_sharded_batch_costs_one_all_reduce(mesh):
    pair = random_pair(19, (8, 16, 16))
    inputs = jax.device_put(pair, NamedSharding(mesh, PartitionSpec("data")))
    compiled = jax.jit(confusion_matrix, static_argnums=2).lower(*inputs, 19).compile()
    text = compiled.as_text()
    assert text.count(" all-reduce(") == 1
    for operation in ("all-gather", "all-to-all", "collective-permute"):
        assert f" {operation}(" not in text, operation
    np.testing.assert_array_equal(compiled(*inputs), counted(*pair, 19))


def test_pair_of_two_sizes_is_refused():
    with pytest.raises(ValueError, match=r"\(1, 4, 4\) and predictions \(1, 2, 2\)"):
        confusion_matrix(jnp.zeros((1, 4, 4), int), jnp.zeros((1, 2, 2), int), 2)


# ---------------------------------------------------------------- summarize


def test_summary_by_hand():
    # car: TP 3, FN 1, FP 2; sky: TP 4, FN 2, FP 1; van: neither truth nor prediction.
    matrix = np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    summary = summarize(matrix, ["car", "sky", "van"])
    assert summary["iou"] == {"car": 3 / 6, "sky": 4 / 7, "van": None}
    assert summary["miou"] == (3 / 6 + 4 / 7) / 2
    assert summary["pixel_accuracy"] == 7 / 10
    assert summary["mean_accuracy"] == (3 / 4 + 4 / 6) / 2
    json.dumps(summary, allow_nan=False)


def test_class_that_is_predicted_but_never_true_counts_as_zero():
    summary = summarize(np.array([[3, 1], [0, 0]]), ["car", "sky"])
    assert summary["iou"] == {"car": 0.75, "sky": 0.0}
    assert summary["miou"] == 0.375
    assert summary["mean_accuracy"] == 0.75


def test_summary_of_nothing_is_none():
    summary = summarize(np.zeros((1, 1), np.int64), ["car"])
    assert summary == {
        "miou": None,
        "iou": {"car": None},
        "pixel_accuracy": None,
        "mean_accuracy": None,
    }


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros((2, 2)), "float64"),
        (np.zeros((3, 3), int), r"\(3, 3\)"),
        (np.array([[-1, 0], [0, 0]]), "overflowed"),
    ],
)
def test_wrong_matrix_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        summarize(matrix, ["car", "sky"])


# ---------------------------------------------------------------- cityscapesScripts


@pytest.fixture(scope="module")
def official():
    with warnings.catch_warnings():
        # Its source has invalid escapes, its dependencies announce removals.
        warnings.simplefilter("ignore")
        from cityscapesscripts.evaluation import (
            evalPixelLevelSemanticLabeling as module,
        )
    return module


def official_scores(official, pairs):
    """{class: IoU} and their mean, of (truth, prediction) PNG files of label ids."""
    args = argparse.Namespace(evalInstLevelScore=False, evalPixelAccuracy=False)
    matrix = official.generateMatrix(args)
    for truth, prediction in pairs:
        official.evaluatePair(str(prediction), str(truth), matrix, None, None, args)
    scores = {
        official.id2label[i].name: official.getIouScoreForLabel(i, matrix, args)
        for i in args.evalLabels
        if not official.id2label[i].ignoreInEval
    }
    return scores, official.getScoreAverage(scores, args)


def our_scores(official, pairs):
    """The same from the train ids, summed over the pairs as an evaluation does."""
    classes = {x.trainId: x for x in official.labels if not x.ignoreInEval}
    to_train_id = np.full(256, 255, np.uint8)
    for train_id, label in classes.items():
        to_train_id[label.id] = train_id
    total = np.zeros((19, 19), np.int64)
    count = jax.jit(confusion_matrix, static_argnums=2)
    for files in pairs:
        truth, prediction = (to_train_id[np.asarray(Image.open(f))] for f in files)
        total += np.asarray(count(truth, prediction, 19))
    return summarize(total, [classes[i].name for i in range(19)])


def assert_same_scores(official, pairs):
    scores, average = official_scores(official, pairs)
    ours = our_scores(official, pairs)
    assert abs(ours["miou"] - average) <= 1e-12
    assert ours["iou"].keys() == scores.keys()
    for name, score in scores.items():
        value = ours["iou"][name]
        if math.isnan(score):
            assert value is None, name
        else:
            assert abs(value - score) <= 1e-12, name
    return ours


def test_equals_cityscapesscripts_on_random_pairs(official, tmp_path):
    draw = np.random.default_rng(0)
    known = np.array([x.id for x in official.labels if x.id >= 0], np.uint8)
    classes = [x.id for x in official.labels if not x.ignoreInEval]
    # Absent from truth and prediction; from the truth only.
    nowhere, never_true = classes[3], classes[5]
    truths = known[(known != nowhere) & (known != never_true)]
    predicted = np.array([i for i in classes if i != nowhere], np.uint8)
    pairs = []
    for i in range(3):
        truth = draw.choice(truths, (40, 50))
        guess = draw.choice(predicted, truth.shape)
        right = (draw.random(truth.shape) < 0.7) & np.isin(truth, predicted)
        pairs.append((tmp_path / f"truth{i}.png", tmp_path / f"prediction{i}.png"))
        for file, image in zip(
            pairs[-1], (truth, np.where(right, truth, guess)), strict=True
        ):
            Image.fromarray(image).save(file)
    ours = assert_same_scores(official, pairs)
    assert ours["iou"]["wall"] is None
    assert ours["iou"]["pole"] == 0
    assert 0.3 < ours["miou"] < 0.9


def test_top_counts_by_hand():
    logits = jnp.array(
        [
            [9, 8, 7, 6, 5, 4, 3],  # 0 is first
            [9, 8, 7, 6, 5, 4, 3],  # 4 is fifth
            [9, 8, 7, 6, 5, 4, 3],  # 5 is sixth
            [1, 1, 1, 1, 1, 1, 1],  # of equals the lower class comes first: 1 is second
            [1, 1, 1, 1, 1, 1, 1],  # 5 is sixth
            [math.nan] * 7,  # nothing is known
            [9, 8, 7, 6, 5, 4, 3],  # padding
        ]
    )
    labels = jnp.array([0, 4, 5, 1, 5, 0, -1], jnp.int32)
    assert metrics.top_counts(labels, logits).tolist() == [1, 3, 6]


def test_top_counts_agree_with_argmax_and_top_k():
    draw = np.random.default_rng(0)
    logits = jnp.asarray(draw.integers(0, 6, (200, 12)), jnp.float32)  # many are equal
    labels = jnp.asarray(draw.integers(0, 12, 200), jnp.int32)
    first, five, images = metrics.top_counts(labels, logits).tolist()
    assert first == int(jnp.sum(jnp.argmax(logits, 1) == labels))
    _, best = jax.lax.top_k(logits, 5)
    assert five == int(jnp.sum(best == labels[:, None]))
    assert images == 200 and 0 < first < five < 200


def test_summary_of_top_counts():
    counts = np.array([30, 90, 120], np.int64)
    assert metrics.summarize_top(counts) == {"top1": 0.25, "top5": 0.75, "images": 120}
    assert metrics.summarize_top([0, 0, 0])["top1"] is None


def test_equals_cityscapesscripts_on_real_labels(official, real_data, tmp_path):
    truths = sorted(real_data.glob("cityscapes_mini/gtFine/val/*/*_labelIds.png"))
    assert len(truths) >= 2
    classes = np.array([x.id for x in official.labels if not x.ignoreInEval], np.uint8)
    pairs = []
    for i, truth in enumerate(truths):
        # The truth of the next image, void filled: wrong in every class.
        image = np.asarray(Image.open(truths[i - 1]))
        noise = np.random.default_rng(i).choice(classes, image.shape)
        pairs.append((truth, tmp_path / truth.name))
        Image.fromarray(np.where(np.isin(image, classes), image, noise)).save(
            pairs[-1][1]
        )
    ours = assert_same_scores(official, pairs)
    assert 0 < ours["miou"] < 0.9

"""A submission: what the check catches, and that cityscapesScripts agrees with us."""

import argparse
import io
import pathlib
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from eseg_jax import cityscapes, inference, metrics
from eseg_jax.input import datasets
from eseg_jax.tools import submit

_INFO = datasets.get("cityscapes")
_NAMES = ["berlin_000000_000019", "berlin_000001_000019"]


def _png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def good():
    """Label ids of two classes at the right size, as a PNG."""
    return _png(
        np.where(np.arange(2048) < 900, np.uint8(7), np.uint8(26))[None].repeat(1024, 0)
    )


def _zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def _problems(path, files, names=_NAMES):
    return submit.problems(_zip(path / "a.zip", files), names, 2)


def test_good_submission_has_no_problem(tmp_path, good):
    files = {f"results/berlin/{name}_pred_labelIds.png": good for name in _NAMES}
    assert _problems(tmp_path, files) == []
    assert _problems(tmp_path, files, None) == []


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((1024, 2048), 2, np.uint8), "holds train ids"),
        (np.full((1024, 2048), 255, np.uint8), "holds train ids"),
        (np.full((1024, 2048), 33, np.uint8) - np.eye(1024, 2048, dtype=np.uint8),
         None),
        (np.full((1024, 2048), 29, np.uint8), "not evaluated, such as 29"),
        (np.full((512, 1024), 7, np.uint8), "is 1024x512; it must be 2048x1024"),
        (np.full((1024, 2048, 3), 7, np.uint8), "mode RGB"),
    ],
)  # fmt: skip
def test_wrong_pixels_are_caught(tmp_path, good, pixels, reason):
    files = {f"{_NAMES[0]}.png": good, f"{_NAMES[1]}.png": _png(pixels)}
    found = _problems(tmp_path, files)
    if reason is None:
        assert found == []
    else:
        assert len(found) == 1 and reason in found[0] and _NAMES[1] in found[0]


def test_wrong_names_and_missing_files_are_caught(tmp_path, good):
    found = _problems(tmp_path, {"berlin_0_19.png": good, f"{_NAMES[0]}.png": good})
    assert "berlin_0_19.png belong to no image" in found[0]
    assert f"1 images have no file: {_NAMES[1]}" in found[1]
    found = _problems(tmp_path, {f"{_NAMES[0]}.png": good}, None)
    assert found == ["There are files for 1 images, not 2."]


def test_two_files_for_one_image_are_caught(tmp_path, good):
    files = {f"{name}.png": good for name in _NAMES} | {f"x/{_NAMES[0]}_b.png": good}
    (found,) = _problems(tmp_path, files)
    assert f"{_NAMES[0]} has 2 files" in found


def test_damaged_files_are_caught(tmp_path, good):
    files = {f"{_NAMES[0]}.png": good, f"{_NAMES[1]}.png": good[:-200]}
    (found,) = _problems(tmp_path, files)
    assert _NAMES[1] in found and "cannot be read" in found
    (tmp_path / "b.zip").write_bytes(b"PK no zip")
    assert "is no zip file" in submit.problems(tmp_path / "b.zip", _NAMES, 2)[0]


# ---------------------------------------------------------------- the real evaluation


class _Predictor:
    """The truth, moved by some pixels: a network that is wrong along every border."""

    checkpoint, protocol = pathlib.Path("run/checkpoints/7"), "one pass"
    class_names, colours = _INFO.class_names, _INFO.colours

    def __init__(self, root):
        self.truths = {}
        for path in sorted(root.glob("gtFine/*/*/*_labelIds.png")):
            labels = _INFO.labels[0].table()[np.asarray(Image.open(path))]
            image = str(path).replace("gtFine", "leftImg8bit")
            image = image.replace("_leftImg8bit_labelIds", "_leftImg8bit")
            key = np.asarray(Image.open(image).convert("RGB"))[::97, ::89].tobytes()
            filled = np.where(labels == 255, 0, labels)
            self.truths[key] = np.roll(filled, 9, axis=1)

    def __call__(self, image):
        labels = self.truths[image[::97, ::89].tobytes()]
        return inference.Segmentation(image, labels, None, self.class_names, None)


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


@pytest.mark.parametrize("instances", [False, True], ids=["all val", "with instances"])
def test_submission_passes_the_official_evaluation(
    official, real_data, tmp_path, instances
):
    root = real_data / "cityscapes_mini"
    predictor = _Predictor(root)
    path = tmp_path / "submission.zip"
    images = submit.find_images(str(root), "val")
    truths = {
        name: next(root.glob(f"gtFine/val/*/{name}_*labelIds.png")) for name in images
    }
    if instances:  # only some have them: the script needs them of all
        truths = {k: v for k, v in truths.items() if _instances(v).exists()}
        images = {name: images[name] for name in truths}
    submit.make(predictor, images, path)
    assert submit.problems(path, list(images), 500) == []

    # The script itself: finds each file by its name below CITYSCAPES_RESULTS.
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "results")
    monkey = pytest.MonkeyPatch()
    monkey.setenv("CITYSCAPES_RESULTS", str(tmp_path / "results"))
    args = argparse.Namespace(**vars(official.args))
    args.evalInstLevelScore, args.quiet = instances, True
    args.evalPixelAccuracy, args.JSONOutput = False, False
    args.predictionPath = args.predictionWalk = None
    predictions = [official.getPrediction(args, str(t)) for t in truths.values()]
    monkey.undo()
    theirs = official.evaluateImgLists(
        predictions, list(map(str, truths.values())), args
    )

    # Ours, from the labels in memory.
    table, matrix = _INFO.labels[0].table(), np.zeros((19, 19), np.int64)
    files = {name: str(_instances(truth)) for name, truth in truths.items()}
    counts = cityscapes.InstanceCounts(_INFO.class_names, files)
    for name, image in images.items():
        guess = predictor(inference.read_image(image)).labels
        truth = table[np.asarray(Image.open(truths[name]))]
        np.add.at(matrix, (truth[truth < 19], guess[truth < 19]), 1)
        if instances:
            counts.add(name, guess)
    ours = metrics.summarize(matrix, _INFO.class_names)
    ours |= cityscapes.category_scores(matrix, _INFO.class_names)
    pairs = [("iou", "classScores"), ("category_iou", "categoryScores")]
    pairs += [
        ("miou", "averageScoreClasses"),
        ("category_miou", "averageScoreCategories"),
    ]
    if instances:
        ours |= counts.scores(matrix)
        pairs += [
            ("instance_iou", "classInstScores"),
            ("instance_miou", "averageScoreInstClasses"),
            ("category_instance_iou", "categoryInstScores"),
            ("category_instance_miou", "averageScoreInstCategories"),
        ]
    for mine, name in pairs:
        if not isinstance(theirs[name], dict):
            assert abs(ours[mine] - theirs[name]) <= 1e-12, mine
            continue
        known = {k: v for k, v in theirs[name].items() if not np.isnan(v)}
        assert {k for k, v in ours[mine].items() if v is not None} == known.keys()
        for key, value in known.items():
            assert abs(ours[mine][key] - value) <= 1e-12, (mine, key)
    assert 0.3 < ours["miou"] < 0.99


def _instances(truth):
    return truth.with_name(truth.name.replace("labelIds", "instanceIds"))

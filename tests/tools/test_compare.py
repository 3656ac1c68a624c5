"""Two runs on one page."""

import html.parser
import json

import numpy as np
import pytest

from eseg_jax import reporting
from eseg_jax.report import compare as page
from eseg_jax.report.files import write_scores
from eseg_jax.tools import compare

_CLASSES = ["road", "sky <b>"]
_COLOURS = np.array([[128, 64, 128], [70, 130, 180]], np.uint8)


def _run(folder, iou, scores, *, classes=_CLASSES, flipped=False, rate=0.1):
    """A workdir with one evaluation, one sample and one worst image."""
    run = reporting.Reporter(
        folder,
        config={"dataset": {"name": "camvid"}, "optimizer": {"learning_rate": rate}},
        class_names=classes,
        colours=_COLOURS,
        total_steps=4,
        batch_size=1,
        num_chips=1,
        active=True,
        header={},
    )
    run.resume(0, 0)
    run.log_train(1, {"loss": 1.0})
    summary = {"miou": sum(iou) / 2, "iou": dict(zip(classes, iou, strict=True))}
    summary |= {"pixel_accuracy": 0.5, "weights": "ema", "protocol": "one pass"}
    rows = [(name, miou, 0.5) for name, miou in scores.items()]
    run.log_eval(4, "val", summary, np.eye(2, dtype=int), rows)
    label = np.array([[0, 0, 1, 1, 255]], np.uint8)
    guess = np.array([[0, 1, 1, 1, 0] if flipped else [0, 0, 0, 1, 0]], np.uint8)
    example = {"id": "a", "image": np.full((1, 5, 3), 90, np.uint8), "label": label}
    run.log_images(4, [example | {"prediction": guess}])
    run.log_worst(4, [example | {"id": "b", "prediction": guess, "miou": 0.25}])
    return str(folder)


class _Texts(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.texts = []
        self.feed(text)

    def handle_data(self, data):
        self.texts.append(data)


def test_page_has_every_piece(tmp_path, capsys):
    a = _run(tmp_path / "a", (0.5, 0.25), {"a": 0.5, "b": 0.25, "c": None})
    b = _run(tmp_path / "b", (0.625, 0.25), {"a": 0.75, "b": 0.125, "c": 1.0}, rate=0.2)
    out = tmp_path / "page.html"
    assert compare.main([a, b, f"--out={out}"]) == 0
    assert "mIoU 37.50 and 43.75 %" in capsys.readouterr().out
    text = out.read_text()
    said = " ".join(" ".join(_Texts(text).texts).split())
    for piece in (
        "mIoU, % +6.25 37.50 43.75",
        "road 50.0 62.5 +12.5",
        "sky <b> 25.0 25.0 ±0.0",
        "mIoU of each of 2 images; B is better on 1 and worse on 1. "
        "Mean of the differences +6.25 ± 18.75",
        "B is best ahead a 50.0 → 75.0 +25.0",
        "B is worst behind b 25.0 → 12.5 −12.5",
        "optimizer.learning_rate 0.1 0.2",
        "a, mIoU 50.0 → 75.0",
    ):
        assert piece in said, piece
    assert "Not measured alike" not in said
    assert "http" not in text.replace("http://www.w3.org", "")


def test_records_of_two_protocols(tmp_path):
    workdir = tmp_path / "a"
    _run(workdir, (0.5, 0.25), {})
    folder = workdir / "evaluation"
    folder.mkdir()
    record = {"step": 4, "split": "val", "weights": "ema", "miou": 0.375}
    record |= {"iou": dict.fromkeys(_CLASSES, 0.375)}
    for name, protocol in (("x", "one pass"), ("y", "with flip")):
        text = json.dumps(record | {"protocol": protocol})
        (folder / f"{name}.json").write_text(text)
        write_scores(folder / f"{name}.csv", 4, [("a", 0.5, 0.5)])
    out = tmp_path / "page.html"
    paths = [str(folder / "x.json"), str(folder / "y.json")]
    assert compare.main([*paths, f"--out={out}"]) == 0
    said = " ".join(_Texts(out.read_text()).texts)
    assert "Not measured alike: protocol differs." in said
    assert "They are the same." in said


def test_who_is_right_by_hand():
    road, sky = _COLOURS
    truth, a, b = (
        np.array([x], np.uint8)
        for x in (
            [road, road, sky, sky, (0, 0, 0)],
            [road, road, road, road, road],
            [road, sky, sky, road, sky],
        )
    )
    image = np.full((1, 5, 3), 60, np.uint8)
    error = np.array([[[9, 9, 9]] * 4 + [[0, 0, 0]]], np.uint8)
    out = page._who(image, truth, a, error, b)
    np.testing.assert_array_equal(
        out[0],
        [[140] * 3, page._ONE_RIGHT["A"], page._ONE_RIGHT["B"], page._BOTH_WRONG]
        + [[0] * 3],
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: str(p / "nowhere"), "has no config.json"),
        (lambda p: str(p / "x.json"), "does not exist"),
        (lambda p: _run(p / "c", (1, 1), {}, classes=["sea", "sky"]), "different clas"),
    ],
)
def test_mistakes_are_named(tmp_path, capsys, make, reason):
    a = _run(tmp_path / "a", (0.5, 0.25), {})
    assert compare.main([a, make(tmp_path)]) == 2
    assert reason in capsys.readouterr().err

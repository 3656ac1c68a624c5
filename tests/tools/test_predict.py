"""The command on real files: what it writes, what it says of broken ones."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from eseg_jax import inference
from eseg_jax.report import panels
from eseg_jax.tools import predict, video

_COLOURS = np.array([[128, 64, 128], [70, 130, 180]], np.uint8)


class _Predictor:
    """Road where the image is dark, sky where it is bright."""

    checkpoint, protocol = pathlib.Path("run/checkpoints/7"), "one pass"
    class_names, colours, has_views = ("road", "sky"), _COLOURS, False

    class config:  # noqa: N801
        class model:  # noqa: N801
            name = "thresholder"

    def __call__(self, image):
        bright = image.mean(axis=-1) / 255
        logits = np.stack([1 - bright, bright], axis=-1).astype(np.float32)
        labels = np.argmax(logits, axis=-1).astype(np.uint8)
        return inference.Segmentation(
            image, labels, logits, self.class_names, self.colours
        )


@pytest.fixture
def loaded(monkeypatch):
    asked = {}

    def load(path, **options):
        asked.update(path=path, **options)
        return _Predictor()

    monkeypatch.setattr(predict.eseg_jax, "load", load)
    return asked


def _save(path, value, size=(12, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*size, 3), value, np.uint8)
    image[:, : size[1] // 2] = 0
    Image.fromarray(image).save(path)
    return image


def test_folder_in_folder_out(loaded, tmp_path):
    image = _save(tmp_path / "in/ulm/a.png", 200)
    _save(tmp_path / "in/b.JPG", 200, (9, 7))
    out = tmp_path / "out"
    kinds = "labels,color,overlay,side,confidence"
    status = predict.main(
        ["run", str(tmp_path / "in"), f"--out={out}", f"--save={kinds}", "--flip"]
    )
    assert status == 0
    assert loaded == {"path": "run", "weights": "ema", "flip": True}
    files = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*"))
    assert files == sorted(
        ["legend.png"]
        + [f"{kind}/{name}.png" for kind in kinds.split(",") for name in ("ulm/a", "b")]
    )
    with Image.open(out / "labels/ulm/a.png") as opened:
        assert opened.mode == "L"
        labels = np.asarray(opened)
    np.testing.assert_array_equal(labels, (image[..., 0] > 127).astype(np.uint8))
    colour = np.asarray(Image.open(out / "color/ulm/a.png"))
    np.testing.assert_array_equal(colour, panels.colourise(labels, _COLOURS))
    confidence = np.asarray(Image.open(out / "confidence/ulm/a.png"))
    # softmax of (1, 0) and of (55, 200) / 255
    sure, unsure = 1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(-145 / 255))
    assert confidence[0, 0] == round(255 * sure)
    assert confidence[0, -1] == round(255 * unsure)


def test_broken_images_are_named_and_counted(loaded, tmp_path, capsys):
    _save(tmp_path / "in/a.png", 200)
    whole = (tmp_path / "in/a.png").read_bytes()
    (tmp_path / "in/cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in/text.png").write_text("no picture")
    out = tmp_path / "out"
    assert predict.main(["run", str(tmp_path / "in"), f"--out={out}"]) == 1
    said = capsys.readouterr().err
    assert "2 of 3 images are broken" in said
    assert "cut.png" in said and "text.png" in said
    assert [p.name for p in (out / "labels").iterdir()] == ["a.png"]


def test_inputs_by_kind(tmp_path):
    for name in ("f/x/a.png", "f/a.png", "f/a.jpg", "g/b.png"):
        _save(tmp_path / name, 200)
    (tmp_path / "c.mp4").write_bytes(b"")
    inputs = [tmp_path / "f", tmp_path / "g/*.png", "0", tmp_path / "c.mp4"]
    items, videos = predict.find(map(str, inputs))
    assert [item.name for item in items] == ["a.jpg", "a.png", "x/a", "b"]
    assert videos == [0, str(tmp_path / "c.mp4")]
    with pytest.raises(ValueError, match="nothing.png is no image, folder, video"):
        predict.find(["nothing.png"])
    with pytest.raises(ValueError, match="called a.png and would overwrite"):
        predict.find([str(tmp_path / "f/a.png"), str(tmp_path / "f/x/a.png")])


def test_wrong_kind_and_flow_without_flow(loaded, tmp_path, capsys):
    _save(tmp_path / "a.png", 200)
    with pytest.raises(SystemExit):
        predict.main(["run", str(tmp_path / "a.png"), "--save=labels,depth"])
    assert "depth cannot be saved; choose of labels" in capsys.readouterr().err
    status = predict.main(["run", str(tmp_path / "a.png"), "--save=flow"])
    assert status == 2
    assert "thresholder has no flow" in capsys.readouterr().err


def test_video_in_video_out(loaded, tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    shades = (0, 120, 250)
    with video.writer(tmp_path / "drive.mp4", (32, 48), 10) as add:
        for shade in shades:
            add(np.full((32, 48, 3), shade, np.uint8))
    out = tmp_path / "out"
    status = predict.main(
        ["run", str(tmp_path / "drive.mp4"), f"--out={out}", "--save=labels,side"]
    )
    assert status == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "drive_side.mp4",
        "labels",
        "legend.png",
    ]
    labels = [np.asarray(Image.open(p)) for p in sorted(out.glob("labels/drive/*"))]
    assert [int(np.median(x)) for x in labels] == [0, 0, 1]
    frames, fps, count = video.read(str(out / "drive_side.mp4"))
    assert (fps, count) == (10, 3)
    frames = list(frames)
    assert len(frames) == 3
    # Right half: the overlay, half image, half colour of the class.
    expected = (250 + _COLOURS[1].astype(int)) / 2
    np.testing.assert_allclose(frames[2][30, 90], expected, atol=6)


def test_images_become_a_video(loaded, tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    for i in range(2):
        _save(tmp_path / f"in/{i}.png", 200, (33, 41))  # odd sides
    out = tmp_path / "out"
    arguments = ["run", str(tmp_path / "in"), f"--out={out}", "--save=overlay"]
    assert predict.main([*arguments, "--fps=5"]) == 0
    frames, fps, _ = video.read(str(out / "video_overlay.mp4"))
    assert fps == 5 and [x.shape for x in frames] == [(32, 40, 3)] * 2
    # A frame of another size stops, and leaves no half of a video.
    _save(tmp_path / "in/2.png", 200, (20, 20))
    (out / "video_overlay.mp4").unlink()
    assert predict.main([*arguments, "--fps=5"]) == 2
    assert not list(out.glob("*.mp4")) + list(out.glob(".*.mp4"))


def test_file_that_is_no_video(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(OSError, match="a.mp4 cannot be opened"):
        video.read(str(tmp_path / "a.mp4"))


def test_without_ffmpeg_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(video.shutil, "which", lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(ValueError, match=r"pip install 'eseg_jax\[video\]'"):
        video.ffmpeg()

import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from eseg_jax.input import datasets
from eseg_jax.tools import check_dataset

_STEMS = {
    "train": ("aachen_000000_000019", "bochum_000000_000001"),
    "val": ("lindau_000000_000019",),
}


def _label_path(root, split, stem):
    return root / f"gtFine/{split}/{stem.split('_')[0]}/{stem}_gtFine_labelIds.png"


def _image_path(root, split, stem):
    return root / f"leftImg8bit/{split}/{stem.split('_')[0]}/{stem}_leftImg8bit.png"


def _save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path):
    """Cityscapes layout, 8x16: the left quarter road, then car, the right half void."""
    label = np.repeat(np.array([7, 26, 0, 0], np.uint8), 4)[None].repeat(8, axis=0)
    for split, stems in _STEMS.items():
        for stem in stems:
            _save(_label_path(tmp_path, split, stem), label)
            image = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)
            _save(_image_path(tmp_path, split, stem), image)
    return tmp_path


def _config(root, name="cityscapes"):
    return ConfigDict(
        {
            "dataset": {
                "name": name,
                "root": str(root),
                "train_split": "train",
                "eval_split": "val",
                "size": (32, 64),
                "train_images": 4,
                "eval_images": 2,
            }
        }
    )


def _problems(root, split="train"):
    return check_dataset.check_split(_config(root), split).problems


def test_good_data(root, capsys):
    assert check_dataset.check(_config(root)) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    assert rows["val"] == ["1", "0", "16x8:", "1"]
    assert rows["road"] == ["25.000", "25.000"]
    assert rows["car"] == ["25.000", "25.000"]
    assert rows["(ignored)"] == ["50.000", "50.000"]
    assert "2 examples, the official split 2975" in out
    assert out.endswith("No problems.\n")


def test_all_problems_are_counted_and_the_first_printed(root, capsys):
    _label_path(root, "val", _STEMS["val"][0]).unlink()
    for stem in _STEMS["train"]:
        _save(_label_path(root, "train", stem), np.full((8, 16), 99, np.uint8))
    assert check_dataset.check(_config(root)) == 3
    out = capsys.readouterr().out
    assert out.count("PROBLEM in train: Label ") == 2
    assert "PROBLEM in val: Label " in out and "3 problems." in out


def test_missing_pairs_both_ways(root):
    label = _label_path(root, "train", _STEMS["train"][0])
    image = _image_path(root, "train", _STEMS["train"][1])
    label.unlink()
    image.unlink()
    assert _problems(root) == [
        f"Label {label} is missing.",
        f"Image {image} is missing.",
    ]


def test_ids_out_of_range(root):
    path = _label_path(root, "train", _STEMS["train"][0])
    label = np.array(Image.open(path))
    label[3, 3] = 34
    _save(path, label)
    (problem,) = _problems(root)
    assert f"{path} holds the value 34, but cityscapes labelIds are 0-33" in problem


def test_label_ids_named_train_ids(root):
    for stem in _STEMS["train"]:
        path = _label_path(root, "train", stem)
        path.rename(str(path).replace("labelIds", "labelTrainIds"))
    problems = _problems(root)
    assert len(problems) == 2
    assert all("look like labelIds, not trainIds" in problem for problem in problems)


def test_size_mismatch(root):
    _save(_image_path(root, "val", _STEMS["val"][0]), np.zeros((8, 8, 3), np.uint8))
    (problem,) = _problems(root, "val")
    assert "_leftImg8bit.png is 8x8 but its label" in problem and "is 16x8" in problem


@pytest.mark.parametrize("what", ["Image", "Label"])
def test_truncated_and_flipped_bytes(root, what):
    path = {"Image": _image_path, "Label": _label_path}[what](
        root, "train", _STEMS["train"][0]
    )
    data = path.read_bytes()
    for missing in (1, 20, len(data) // 2):
        path.write_bytes(data[:-missing])
        (problem,) = _problems(root)
        assert problem.startswith(f"{what} {path} cannot be decoded")
    middle = data.index(b"IDAT") + 8
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :])
    (problem,) = _problems(root)
    assert problem.startswith(f"{what} {path} cannot be decoded")
    path.write_bytes(b"")
    (problem,) = _problems(root)
    assert problem.startswith(f"{what} {path} is empty")


def test_label_in_another_format(root):
    _save(
        _label_path(root, "train", _STEMS["train"][0]), np.zeros((8, 16, 3), np.uint8)
    )
    (problem,) = _problems(root)
    assert "8-bit RGB" in problem


def test_wrong_layout_is_a_problem_of_each_split(tmp_path):
    (tmp_path / "pictures").mkdir()
    assert check_dataset.check(_config(tmp_path)) == 2


def test_scenes(capsys):
    assert check_dataset.check(_config("", "scenes")) == 0
    assert "64x32: 4" in capsys.readouterr().out


def test_class_folders(tmp_path, capsys):
    for split, counts in (("train", {"cat": 3, "dog": 1}), ("val", {"dog": 2})):
        for name, count in counts.items():
            for k in range(count):
                image = np.full((6, 9, 3), 50 * k, np.uint8)
                _save(tmp_path / split / name / f"{k}.png", image)
    (tmp_path / "val" / "cat").mkdir()
    config = _config(tmp_path, "class_folders")
    assert check_dataset.check(config) == 0
    lines = [" ".join(x.split()) for x in capsys.readouterr().out.splitlines()]
    assert "class_folders: 2 classes" in lines
    assert "train 4 0 9x6: 4" in lines
    assert "cat 75.000 0.000" in lines
    broken = tmp_path / "train" / "cat" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    assert check_dataset.check(config) == 1
    assert f"Image {broken} is damaged or no PNG or JPEG" in capsys.readouterr().out


def test_real_data_is_clean(real_data):
    config = _config(real_data / "cityscapes_mini")
    report = check_dataset.check_split(config, "val")
    assert report.problems == [] and report.sizes == {(1024, 2048): 3}
    config = _config(real_data / "camvid480", "camvid")
    report = check_dataset.check_split(config, "val")
    assert report.problems == [] and report.sizes == {(360, 480): 101}


def test_camvid_class_frequencies_are_the_known_ones(real_data):
    """Pixel shares of the ids 0..11 over all 701 annotations, from the data's notes."""
    config = _config(real_data / "camvid480", "camvid")
    pixels = sum(
        check_dataset.check_split(config, split).pixels
        for split in ("train", "val", "test")
    )
    shares = pixels[[*range(11), 255]] / pixels.sum()
    expected = [0.158, 0.241, 0.010, 0.293, 0.067, 0.112]
    expected += [0.011, 0.014, 0.046, 0.006, 0.005, 0.036]
    np.testing.assert_allclose(shares, expected, atol=6e-4)


# ---------------------------------------------------------------- what a set gives away


def _config_of(name, root, **fields):
    config = _config(root, name)
    config.dataset.update(fields)
    return config


def test_voc_masks_of_instances(tmp_path, capsys):
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    ids = [f"2007_{i:06d}" for i in range(12)]
    for split in ("train", "val"):
        (lists / f"{split}.txt").write_text("\n".join(ids))
    for i, name in enumerate(ids):
        label = (np.arange(128).reshape(8, 16) // 16 % (2 + i % 3)).astype(np.uint8)
        _save(tmp_path / f"SegmentationClass/{name}.png", label)
        _save(tmp_path / f"JPEGImages/{name}.jpg", np.zeros((8, 16, 3), np.uint8))
    config = _config_of("voc2012", tmp_path)
    (problem,) = check_dataset.check_split(config, "train").problems
    assert "In 12 of 12 labels of voc2012 split 'train'" in problem
    # Classes of a higher number in two of them, as in any real set: no longer a row.
    for name in ids[:2]:
        _save(tmp_path / f"SegmentationClass/{name}.png", np.full((8, 16), 9, np.uint8))
    assert check_dataset.check_split(config, "train").problems == []


def test_instance_files_where_labels_belong(root):
    path = _label_path(root, "train", _STEMS["train"][0])
    Image.new("I;16", (16, 8), 26001).save(path)
    (problem,) = _problems(root)
    assert "16-bit grey pixels (it may hold instances where classes belong)" in problem


_FRAMES = {"train": "0006R0_f00930", "val": "0016E5_07961", "test": "Seq05VD_f00000"}


def _camvid_720(root, size=(720, 960)):
    for name in _FRAMES.values():
        _save(root / f"images/{name}.png", np.zeros((*size, 3), np.uint8))
        _save(root / f"labels/{name}_L.png", np.full((*size, 3), 128, np.uint8))


def test_camvid_protocol_is_named(tmp_path, capsys):
    _camvid_720(tmp_path)
    assert check_dataset.check(_config_of("camvid_720", tmp_path)) == 0
    out = capsys.readouterr().out
    assert "note: CamVid protocol camvid_720: 960x720 colour labels, 11 exact" in out
    assert "Sky" in out and "100.000" in out
    assert check_dataset.check(_config_of("camvid", tmp_path)) == 3
    out = capsys.readouterr().out
    assert "is laid out as camvid_720 and camvid_720_merged; set config" in out


def test_camvid_labels_of_another_size(tmp_path):
    _camvid_720(tmp_path, (360, 480))
    report = check_dataset.check_split(_config_of("camvid_720", tmp_path), "train")
    assert (
        "has labels of 960x720, but these are labels of 480x360" in report.problems[0]
    )


def test_kaggles_split_of_camvid(tmp_path, capsys):
    for part, name in (
        ("train", "0006R0_f00930"),
        ("train", "Seq05VD_f00000"),
        ("val", "0016E5_07961"),
        ("test", "0001TP_006690"),
    ):
        _save(tmp_path / f"{part}/{name}.png", np.zeros((2, 2, 3), np.uint8))
        _save(tmp_path / f"{part}_labels/{name}_L.png", np.zeros((2, 2, 3), np.uint8))
    assert check_dataset.check(_config_of("camvid", tmp_path)) == 4
    out = capsys.readouterr().out
    assert "1 of 2 images of 'train' belong to another part of the benchmark" in out
    assert "(Seq05VD_f00000), as in Kaggle's copy" in out
    assert "1 of 1 images of 'test'" in out


def test_lists_with_another_split_of_camvid(tmp_path):
    for name in ("0006R0_f00930", "Seq05VD_f00000"):
        _save(tmp_path / f"train/{name}.png", np.zeros((360, 480, 3), np.uint8))
        _save(tmp_path / f"trainannot/{name}.png", np.zeros((360, 480), np.uint8))
    (tmp_path / "train.txt").write_text(
        "".join(
            f"train/{name}.png trainannot/{name}.png\n"
            for name in ("0006R0_f00930", "Seq05VD_f00000")
        )
    )
    (problem,) = check_dataset.check_split(
        _config_of("camvid", tmp_path), "train"
    ).problems
    assert problem.startswith("1 of 2 images of 'train' belong to another part")


def test_contact_sheet(root):
    config = _config(root)
    reports = {s: check_dataset.check_split(config, s) for s in ("train", "val")}
    info = datasets.get("cityscapes")
    sheet = np.array(check_dataset.contact_sheet(info, reports))
    line, width = 18, 400
    assert sheet.shape == ((200 + line) * 3 + 4 * line, 3 * width, 3)
    # The label of the first example: road on the left, then car, then nothing.
    middle = line + 100
    assert sheet[middle, width + 50].tolist() == [128, 64, 128]
    assert sheet[middle, width + 150].tolist() == [0, 0, 142]
    assert sheet[middle, width + 300].tolist() == [0, 0, 0]
    image, blended = sheet[middle, 50], sheet[middle, 2 * width + 50]
    half = (image.astype(int) + [128, 64, 128]) / 2
    assert abs(blended - half).max() <= 1


def test_command_ends_with_one_when_something_is_wrong(root, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        "from ml_collections import ConfigDict\n"
        f"def get_config(): return ConfigDict({_config(root).to_dict()!r})\n"
    )

    sheet = tmp_path / "sheet.png"

    def run(*flags):
        command = [sys.executable, "-m", "eseg_jax.tools.check_dataset"]
        command += [f"--config={config}", f"--contact_sheet={sheet}", *flags]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    good = run()
    assert (good.returncode, good.stdout.splitlines()[-1]) == (0, "No problems.")
    with Image.open(sheet) as image:
        assert image.width == 1200
    bad = run("--config.dataset.root=/not/here")
    assert bad.returncode == 1
    assert "cityscapes not found: /not/here is not a folder" in bad.stdout
    assert "Traceback" not in bad.stderr
    assert run("--config.dataset.name=kamvid").returncode == 1

import os
import subprocess
import sys

import numpy as np
import pytest

from eseg_jax.input import datasets
from eseg_jax.input.datasets import InputError

CITYSCAPES = datasets.DATASETS["cityscapes"]
CAMVID = datasets.DATASETS["camvid"]
LABEL_IDS, TRAIN_IDS = CITYSCAPES.labels


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    monkeypatch.delenv("CITYSCAPES_DATASET", raising=False)
    monkeypatch.delenv("CAMVID_DATASET", raising=False)


# ------------------------------------------------------------------------------ tables


def test_cityscapes_label_ids_map_as_in_the_official_scripts():
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    table = LABEL_IDS.table()
    for label in labels:
        if label.id >= 0:  # licence plate is -1 and never in a PNG
            assert table[label.id] == label.trainId, label.name
            if label.trainId != 255:
                assert CITYSCAPES.class_names[label.trainId] == label.name
                colour = CITYSCAPES.colours[label.trainId]
                np.testing.assert_array_equal(colour, label.color)
    assert sorted(LABEL_IDS.mapping) == list(range(34))


def test_mapping_tables_by_hand():
    table = LABEL_IDS.table()
    assert [table[i] for i in (0, 6, 7, 8, 9, 11, 23, 26, 29, 33)] == [
        *(255, 255, 0, 1, 255, 2, 10, 13, 255, 18)
    ]
    np.testing.assert_array_equal(TRAIN_IDS.table()[:20], [*range(19), 255])
    np.testing.assert_array_equal(CAMVID.labels[0].table()[:12], [*range(11), 255])
    assert CAMVID.class_names[3] == "Road"
    assert tuple(CAMVID.colours[8]) == (64, 0, 128)


@pytest.mark.parametrize(
    "info",
    [info for info in datasets.DATASETS.values() if info.complete is None],
    ids=lambda info: info.name,
)
def test_rows_are_consistent(info):
    assert info.colours.shape == (info.num_classes, 3)
    assert info.colours.dtype == np.uint8
    assert len(set(info.class_names)) == info.num_classes
    assert info.licence and info.where_to_get
    for kind in info.labels:
        targets = set(kind.mapping.values()) - {datasets.IGNORE}
        assert targets == set(range(info.num_classes))
    for parts in info.splits.values():
        assert set(parts) <= set(info.sizes) or info.layout is None


def test_allowed_ids_in_words():
    assert LABEL_IDS.allowed() == "0-33"
    assert TRAIN_IDS.allowed() == "0-18 and 255"
    assert TRAIN_IDS.ranges() == [(0, 18), (255, 255)]


def test_importing_the_input_does_not_import_tensorflow():
    code = (
        "import sys, eseg_jax.input, eseg_jax.input.datasets; "
        "assert not any(m.startswith('tensorflow') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ----------------------------------------------------------------------------- listing


def test_cityscapes_is_sorted_by_id(cityscapes):
    found = datasets.list_split(CITYSCAPES, "train", str(cityscapes))
    assert [example.id for example in found.examples] == [
        "aachen_000000_000019",
        "aachen_000001_000019",
        "bochum_000000_000001",
    ]
    stem = "train/bochum/bochum_000000_000001"
    assert found.examples[2].image == f"{cityscapes}/leftImg8bit/{stem}_leftImg8bit.png"
    assert found.examples[2].label == f"{cityscapes}/gtFine/{stem}_gtFine_labelIds.png"
    assert found.kind is LABEL_IDS


def test_cityscapes_train_ids_are_used_when_only_they_are_complete(cityscapes):
    for path in sorted(cityscapes.glob("gtFine/val/*/*_labelIds.png"))[1:]:
        path.rename(str(path).replace("labelIds", "labelTrainIds"))
    (left,) = cityscapes.glob("gtFine/val/*/*_labelIds.png")
    copy = left.with_name(left.name.replace("labelIds", "labelTrainIds"))
    copy.write_bytes(left.read_bytes())
    assert datasets.list_split(CITYSCAPES, "val", str(cityscapes)).kind is TRAIN_IDS
    # The other way round: one stray file does not win over a complete set.
    assert datasets.list_split(CITYSCAPES, "train", str(cityscapes)).kind is LABEL_IDS


def test_camvid_strips_the_prefix_and_accepts_jpg(camvid):
    (camvid / "train/train_1.png").rename(camvid / "train/train_1.jpg")
    found = datasets.list_split(CAMVID, "train", str(camvid))
    assert [example.id for example in found.examples] == [
        f"train_{index}" for index in range(5)
    ]
    assert found.examples[0].image == f"{camvid}/train/train_0.png"
    assert found.examples[1].image == f"{camvid}/train/train_1.jpg"
    assert found.examples[1].label == f"{camvid}/trainannot/train_1.png"


def test_trainval_is_both(camvid):
    found = datasets.list_split(CAMVID, "trainval", str(camvid))
    assert len(found.examples) == 8


def test_real_data_is_complete(real_data):
    for split, count in (
        ("train", 367),
        ("val", 101),
        ("test", 233),
        ("trainval", 468),
    ):
        found = datasets.list_split(CAMVID, split, str(real_data / "camvid480"))
        assert len(found.examples) == count
    mini = str(real_data / "cityscapes_mini")
    assert len(datasets.list_split(CITYSCAPES, "train", mini).examples) == 4
    assert len(datasets.list_split(CITYSCAPES, "val", mini).examples) == 3


def test_root_from_config_then_variable_then_default(monkeypatch, tmp_path):
    root, source = datasets.find_root(CAMVID, "")
    assert (str(root), source) == (
        os.path.join("datasets", "camvid"),
        "the default, as config.dataset.root and CAMVID_DATASET are not set",
    )
    monkeypatch.setenv("CAMVID_DATASET", str(tmp_path))
    root, source = datasets.find_root(CAMVID, "")
    assert (str(root), source) == (
        str(tmp_path),
        "the environment variable CAMVID_DATASET",
    )
    root, source = datasets.find_root(CAMVID, "/elsewhere")
    assert (str(root), source) == ("/elsewhere", "config.dataset.root")


# ------------------------------------------------------------------------------ errors


def _message(info, split, root="") -> str:
    with pytest.raises(InputError) as error:
        datasets.list_split(info, split, str(root))
    message = str(error.value)
    assert message.endswith(".") and "\n" not in message
    return message


def test_missing_root_says_what_where_and_how(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    message = _message(CITYSCAPES, "train")
    assert (
        f"cityscapes not found: {tmp_path}/datasets/cityscapes is not a folder"
        in message
    )
    assert "config.dataset.root and CITYSCAPES_DATASET are not set" in message
    assert "https://www.cityscapes-dataset.com" in message
    assert "--config=configs/eseg_lite_s.py:scenes" in message

    monkeypatch.setenv("CITYSCAPES_DATASET", "/nowhere")
    assert "environment variable CITYSCAPES_DATASET" in _message(CITYSCAPES, "train")
    message = _message(CITYSCAPES, "train", "/not/here")
    assert "/not/here is not a folder (looked there because of config.d" in message


def test_wrong_layout_says_what_is_there(tmp_path):
    (tmp_path / "images").mkdir()
    message = _message(CITYSCAPES, "train", tmp_path)
    assert "expected leftImg8bit/train/*/*_leftImg8bit.png there" in message
    assert "found images" in message
    message = _message(CAMVID, "val", tmp_path)
    assert "expected val.txt there, found images" in message


def test_root_one_level_too_high_is_recognised(cityscapes):
    message = _message(CITYSCAPES, "train", cityscapes.parent)
    assert f"it looks like the root is {cityscapes}" in message


def test_missing_labels_are_counted_and_named(cityscapes, camvid):
    gone = sorted(cityscapes.glob("gtFine/train/aachen/*"))
    for path in gone:
        path.unlink()
    message = _message(CITYSCAPES, "train", cityscapes)
    assert "2 of 3 images" in message and str(gone[0]) in message

    for index in range(5):
        (camvid / f"trainannot/train_{index}.png").unlink()
    message = _message(CAMVID, "train", camvid)
    assert "5 of 5 images" in message and "train_2.png and 2 more" in message


def test_image_without_any_label_of_either_kind(cityscapes):
    for path in cityscapes.glob("gtFine/val/*/*"):
        path.unlink()
    assert "2 of 2 images" in _message(CITYSCAPES, "val", cityscapes)


def test_listed_image_that_does_not_exist(camvid):
    (camvid / "val/val_1.png").unlink()
    message = _message(CAMVID, "val", camvid)
    assert "1 of 3 listed images" in message and "val/val_1.png" in message


def test_label_without_image_is_reported_by_the_scan(cityscapes):
    (image,) = cityscapes.glob("leftImg8bit/train/bochum/*")
    image.unlink()
    assert len(datasets.list_split(CITYSCAPES, "train", str(cityscapes)).examples) == 2
    scan = datasets.scan_split(CITYSCAPES, "train", str(cityscapes))
    assert scan.missing_images == (str(image),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train/a.png\n", "Line 1 of"),
        ("train/a.png b.png c.png\n", "is not an 'image label' pair"),
        ("x/train/a.png y/b.png\nz/train/a.png y/c.png\n", "train/a.png a second time"),
        ("\n", "is empty"),
    ],
)
def test_bad_lists(camvid, text, expected):
    (camvid / "train.txt").write_text(text)
    assert expected in _message(CAMVID, "train", camvid)


def test_splits_with_different_kinds_of_label(cityscapes):
    for path in cityscapes.glob("gtFine/val/*/*_labelIds.png"):
        path.rename(str(path).replace("labelIds", "labelTrainIds"))
    message = _message(CITYSCAPES, "trainval", cityscapes)
    assert "mixes labelIds and trainIds" in message


def test_unknown_names_list_the_known_ones():
    with pytest.raises(InputError, match="'kamvid' is not a dataset; .*camvid_720, "):
        datasets.get("kamvid")
    assert "choose one of train, val, test, trainval" in _message(CAMVID, "valid")


# ------------------------------------------------------------------------ one file


def test_ids_problem_names_file_value_and_range():
    check = datasets.ids_problem
    assert check(CITYSCAPES, LABEL_IDS, "a.png", [0, 7, 33]) is None
    message = check(CAMVID, CAMVID.labels[0], "a.png", [0, 12, 200])
    assert "Label a.png holds the values 12, 200" in message
    assert "camvid SegNet index labels are 0-11" in message


def test_ids_problem_recognises_the_other_kind():
    message = datasets.ids_problem(CITYSCAPES, TRAIN_IDS, "a.png", [7, 26, 33])
    assert "these look like labelIds, not trainIds" in message
    assert "the values 26, 33" in message and "0-18 and 255" in message
    message = datasets.ids_problem(CITYSCAPES, LABEL_IDS, "a.png", [0, 18, 255])
    assert "these look like trainIds, not labelIds" in message
    message = datasets.ids_problem(CITYSCAPES, LABEL_IDS, "a.png", [33, 255])
    assert "look like" not in message and "the value 255" in message

"""The rows of the dataset table against expectations written by hand."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from eseg_jax.input import datasets
from eseg_jax.input.datasets import InputError, camvid

ROWS = datasets.DATASETS
VOID = 255


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for info in ROWS.values():
        monkeypatch.delenv(info.root_variable or "X", raising=False)


def _named(info, kind, label_id):
    """The class an id of a label file stands for; None when ignored."""
    train_id = kind.table()[label_id]
    return None if train_id == VOID else info.class_names[train_id]


def _touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")


def _listed(info, split, root):
    return [example.id for example in datasets.list_split(info, split, root).examples]


# ----------------------------------------------------------------------------- ADE20K


def test_ade20k_ids():
    info = ROWS["ade20k"]
    (kind,) = info.labels
    assert info.num_classes == 150
    expected = {0: None, 1: "wall", 2: "building", 13: "person", 21: "car"}
    expected |= {48: "sink", 76: "swivel chair", 101: "poster"}
    expected |= {116: "bag", 128: "bicycle", 150: "flag"}
    assert {i: _named(info, kind, i) for i in expected} == expected
    assert kind.allowed() == "0-150"
    assert tuple(info.colours[0]) == (120, 120, 120)
    assert tuple(info.colours[149]) == (92, 0, 255)


def test_ade20k_layout(tmp_path):
    for part in ("training", "validation"):
        _touch(
            tmp_path,
            f"images/{part}/ADE_{part}_1.jpg",
            f"annotations/{part}/ADE_{part}_1.png",
        )
    assert _listed(ROWS["ade20k"], "train", tmp_path) == ["ADE_training_1"]
    assert _listed(ROWS["ade20k"], "val", tmp_path) == ["ADE_validation_1"]


# ----------------------------------------------------------------------------- PASCAL


def test_pascal_context_ids():
    with_background, without = ROWS["pascal_context_60"], ROWS["pascal_context_59"]
    names = {0: "background", 1: "aeroplane", 2: "bag", 14: "car", 37: "person"}
    names |= {50: "table", 54: "truck", 59: "wood"}
    for label_id, name in names.items():
        (kind,) = with_background.labels
        assert _named(with_background, kind, label_id) == name
        (kind,) = without.labels
        assert _named(without, kind, label_id) == (name if label_id else None)
    assert (with_background.num_classes, without.num_classes) == (60, 59)
    np.testing.assert_array_equal(with_background.colours[1:], without.colours)


def test_voc_ids_and_colours():
    info = ROWS["voc2012"]
    kind = info.labels[0]
    names = {0: "background", 1: "aeroplane", 15: "person", 20: "tvmonitor", 255: None}
    assert {i: _named(info, kind, i) for i in names} == names
    colours = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128)}
    colours |= {7: (128, 128, 128), 20: (0, 64, 128)}
    assert {i: tuple(info.colours[i]) for i in colours} == colours


def test_id_lists(tmp_path):
    info = ROWS["pascal_context_59"]
    _touch(tmp_path, *(f"JPEGImages/2008_{i}.jpg" for i in range(4)))
    _touch(tmp_path, *(f"SegmentationClassContext/2008_{i}.png" for i in (1, 3)))
    lists = tmp_path / "ImageSets/SegmentationContext"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2008_3\n2008_1\n\n")
    assert _listed(info, "train", tmp_path) == ["2008_1", "2008_3"]
    images = datasets.list_images(info, "train", tmp_path)
    assert [(e.id, e.label) for e in images] == [("2008_1", ""), ("2008_3", "")]

    with pytest.raises(InputError, match="expected ImageSets/Segmentat.*/val.txt th"):
        datasets.list_split(info, "val", tmp_path)
    with pytest.raises(InputError, match=f"it looks like the root is {tmp_path}"):
        datasets.list_split(info, "train", tmp_path.parent)
    (lists / "val.txt").write_text("2008_0\n2008_3\n")
    with pytest.raises(InputError, match="1 of 2 images .*Context/2008_0.png"):
        datasets.list_split(info, "val", tmp_path)
    (lists / "val.txt").write_text("2008_9\n2008_3\n")
    with pytest.raises(InputError, match="1 of 2 listed images .*/2008_9.jpg"):
        datasets.list_split(info, "val", tmp_path)


def test_voc_augmented_labels_have_a_folder_of_their_own(tmp_path):
    _touch(tmp_path, "JPEGImages/a.jpg", "JPEGImages/b.jpg", "SegmentationClass/a.png")
    _touch(tmp_path, "SegmentationClassAug/a.png", "SegmentationClassAug/b.png")
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "trainaug.txt").write_text("a\nb\n")
    kinds = {
        split: datasets.list_split(ROWS["voc2012"], split, tmp_path).kind.name
        for split in ("train", "trainaug")
    }
    assert kinds == {"train": "SegmentationClass", "trainaug": "SegmentationClassAug"}


# ----------------------------------------------------------------------------- CamVid


def _camvid_class(info, colour):
    (kind,) = info.labels
    return _named(info, kind, kind.colours.index(colour))


def test_camvid_exact_colours_ignore_the_rest():
    info = ROWS["camvid_720"]
    order = "Bicyclist Building Car Pole Fence Pedestrian Road Sidewalk Sign Sky Tree"
    assert info.class_names == tuple(order.split())
    assert _camvid_class(info, (0, 128, 192)) == "Bicyclist"
    assert _camvid_class(info, (0, 0, 192)) == "Sidewalk"
    # SUV, driving lane markings, child, motorcycle, wall, void.
    for colour in [(64, 128, 192), (128, 0, 192), (192, 128, 64), (192, 0, 192)]:
        assert _camvid_class(info, colour) is None
    assert _camvid_class(info, (64, 192, 0)) is None
    assert _camvid_class(info, (0, 0, 0)) is None


def test_camvid_merges_all_but_void():
    info = ROWS["camvid_720_merged"]
    assert info.class_names == ROWS["camvid"].class_names
    by_class = {
        "Sky": [(128, 128, 128)],
        "Building": [(128, 0, 0), (0, 128, 64), (64, 192, 0), (64, 0, 64)]
        + [(192, 0, 128)],
        "Pole": [(192, 192, 128), (0, 0, 64)],
        "Road": [(128, 64, 128), (128, 0, 192), (192, 0, 64)],
        "Pavement": [(0, 0, 192), (64, 192, 128), (128, 128, 192)],
        "Tree": [(128, 128, 0), (192, 192, 0)],
        "SignSymbol": [(192, 128, 128), (128, 128, 64), (0, 64, 64)],
        "Fence": [(64, 64, 128)],
        "Car": [(64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128)]
        + [(128, 64, 64)],
        "Pedestrian": [(64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)],
        "Bicyclist": [(0, 128, 192), (192, 0, 192)],
        None: [(0, 0, 0)],
    }
    assert sum(map(len, by_class.values())) == len(info.labels[0].colours) == 32
    for name, colours in by_class.items():
        for colour in colours:
            assert _camvid_class(info, colour) == name, colour


def test_camvid_split_rule_is_segnets_lists(real_data):
    count = 0
    for part in ("train", "val", "test"):
        lines = (real_data / "camvid480" / f"{part}.txt").read_text().split()[::2]
        for line in lines:
            name = line.rpartition("/")[2].removesuffix(".png")
            assert camvid.part_of(name) == part
            count += 1
    assert count == 701
    assert camvid.part_of("aachen_000000") is None
    assert camvid.part_of("0001TP_x") is None


def test_camvid_full_size_needs_no_lists(tmp_path):
    names = {"0006R0_f00930": "train", "0016E5_07961": "val", "0016E5_08190": "train"}
    names |= {"0001TP_008520": "train", "0001TP_008550": "test"}
    names |= {"Seq05VD_f00000": "test"}
    for name in names:
        _touch(tmp_path, f"images/{name}.png", f"labels/{name}_L.png")
    for part in ("train", "val", "test"):
        expected = sorted(name for name, of in names.items() if of == part)
        assert _listed(ROWS["camvid_720"], part, tmp_path) == expected


# -------------------------------------------------------------------------- Cityscapes


def test_cityscapes_coarse_and_unlabelled(tmp_path):
    stem = "train_extra/augsburg/augsburg_000000_000000"
    _touch(tmp_path, f"leftImg8bit/{stem}_leftImg8bit.png")
    (image,) = datasets.list_images(ROWS["cityscapes"], "train_extra", tmp_path)
    assert (image.id, image.label) == ("augsburg_000000_000000", "")
    with pytest.raises(InputError, match="1 of 1 images"):
        datasets.list_split(ROWS["cityscapes"], "train_extra", tmp_path)
    _touch(tmp_path, f"gtCoarse/{stem}_gtCoarse_labelIds.png")
    coarse = ROWS["cityscapes_coarse"]
    assert _listed(coarse, "train_extra", tmp_path) == ["augsburg_000000_000000"]


# --------------------------------------------------------------------------- Mapillary

# SFSegNets' mapillary_to_city.py: ids of Vistas 1.2 -> train ids of Cityscapes.
_TO_CITY = {13: 0, 24: 0, 41: 0, 2: 1, 15: 1, 17: 2, 6: 3, 3: 4, 45: 5, 47: 5, 48: 6}
_TO_CITY |= {50: 7, 30: 8, 29: 9, 27: 10, 19: 11, 20: 12, 21: 12, 22: 12, 55: 13}
_TO_CITY |= {61: 14, 54: 15, 58: 16, 57: 17, 52: 18}
_VISTAS = {2: "construction--barrier--curb", 3: "construction--barrier--fence"}
_VISTAS |= {6: "construction--barrier--wall", 13: "construction--flat--road"}
_VISTAS |= {15: "construction--flat--sidewalk", 17: "construction--structure--building"}
_VISTAS |= {19: "human--person", 20: "human--rider--bicyclist"}
_VISTAS |= {21: "human--rider--motorcyclist", 22: "human--rider--other-rider"}
_VISTAS |= {24: "marking--general", 27: "nature--sky", 29: "nature--terrain"}
_VISTAS |= {
    30: "nature--vegetation",
    41: "object--manhole",
    45: "object--support--pole",
}
_VISTAS |= {47: "object--support--utility-pole", 48: "object--traffic-light"}
_VISTAS |= {50: "object--traffic-sign--front", 52: "object--vehicle--bicycle"}
_VISTAS |= {54: "object--vehicle--bus", 55: "object--vehicle--car"}
_VISTAS |= {57: "object--vehicle--motorcycle", 58: "object--vehicle--on-rails"}
_VISTAS |= {61: "object--vehicle--truck"}


def _vistas(root, file, count, void):
    """A configuration file as Mapillary's: `count` labels, those in `void` unscored."""
    labels = [
        {
            "name": _VISTAS.get(i, f"other--{i}"),
            "readable": f"Class {i}",
            "color": [i, 0, 255 - i],
            "evaluate": i not in void,
            "instances": False,
        }
        for i in range(count)
    ]
    (root / file).write_text(json.dumps({"labels": labels, "version": "1.2"}))


def _dataset(name, root):
    return ConfigDict({"name": name, "root": str(root)})


def test_mapillary_classes_come_from_its_file(tmp_path):
    _vistas(tmp_path, "config_v1.2.json", 66, {65})
    info = datasets.configured(_dataset("mapillary_v1", tmp_path))
    assert info.num_classes == 65 and info.class_names[64] == "Class 64"
    assert tuple(info.colours[3]) == (3, 0, 252)
    for kind in info.labels:
        assert kind.mapping == {i: i for i in range(65)} | {65: VOID}

    # Unscored classes in the middle: the train ids close the gap.
    _vistas(tmp_path, "config_v2.0.json", 124, {5, 123})
    info = datasets.configured(_dataset("mapillary_v2", tmp_path))
    (kind,) = info.labels
    assert info.num_classes == 122
    assert [kind.mapping[i] for i in (4, 5, 6, 122, 123)] == [4, VOID, 5, 121, VOID]


def test_mapillary_as_cityscapes(tmp_path):
    _vistas(tmp_path, "config.json", 66, {65})
    info = datasets.configured(_dataset("mapillary_cityscapes", tmp_path))
    assert info.class_names == ROWS["cityscapes"].class_names
    expected = {i: _TO_CITY.get(i, VOID) for i in range(66)}
    assert info.labels[0].mapping == expected


def test_mapillary_layouts(tmp_path):
    _vistas(tmp_path, "config_v1.2.json", 66, {65})
    _touch(tmp_path, "training/images/a.jpg", "validation/images/b.jpg")
    _touch(tmp_path, "training/v1.2/labels/a.png", "training/v2.0/labels/a.png")
    _touch(tmp_path, "validation/labels/b.png")
    info = datasets.configured(_dataset("mapillary_v1", tmp_path))
    found = datasets.list_split(info, "train", tmp_path)
    assert found.examples[0].label == f"{tmp_path}/training/v1.2/labels/a.png"
    found = datasets.list_split(info, "val", tmp_path)
    assert found.examples[0].label == f"{tmp_path}/validation/labels/b.png"


def test_mapillary_without_its_file(tmp_path):
    with pytest.raises(InputError, match="mapillary_v1 not found: /not/here"):
        datasets.configured(_dataset("mapillary_v1", "/not/here"))
    with pytest.raises(InputError, match="read from config_v1.2.json, which is not in"):
        datasets.configured(_dataset("mapillary_v1", tmp_path))
    (tmp_path / "config_v1.2.json").write_text("{}")
    with pytest.raises(InputError, match="is not a configuration file of Mapillary"):
        datasets.configured(_dataset("mapillary_v1", tmp_path))
    _vistas(tmp_path, "config_v1.2.json", 50, {})
    with pytest.raises(InputError, match="has no class 'object--traffic-sign--front'"):
        datasets.configured(_dataset("mapillary_cityscapes", tmp_path))


# ------------------------------------------------------------------------ your own data


def _folder(root="", **fields):
    defaults = {
        "images": "images/{split}/{id}.*",
        "records": "folder/mine",
        "masks": "masks/{split}/{id}.png",
        "lists": "",
        "classes": (("road", (1, 2, 3)), ("sky", (4, 5, 6))),
        "ignored": (),
        "colour_masks": False,
        "train_split": "train",
        "eval_split": "val",
    }
    return ConfigDict({"name": "folder", "root": str(root)} | defaults | fields)


def test_folder_of_index_masks():
    info = datasets.configured(_folder(ignored=(255,)))
    assert info.class_names == ("road", "sky")
    assert info.colours.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert info.labels[0].mapping == {0: 0, 1: 1, 255: VOID}

    classes = (("road", (1, 2, 3), (7, 9)), ("sky", (4, 5, 6), (23,)))
    info = datasets.configured(_folder(classes=classes, ignored=(0, 1)))
    assert info.labels[0].mapping == {7: 0, 9: 0, 23: 1, 0: VOID, 1: VOID}


def test_folder_of_colour_masks():
    classes = (("road", (1, 2, 3)), ("sky", (4, 5, 6), ((7, 8, 9), (4, 5, 6))))
    config = _folder(classes=classes, ignored=((0, 0, 0),), colour_masks=True)
    (kind,) = datasets.configured(config).labels
    assert kind.colours == ((1, 2, 3), (7, 8, 9), (4, 5, 6), (0, 0, 0))
    assert kind.mapping == {0: 0, 1: 1, 2: 1, 3: VOID}
    config.ignored = ("others",)
    (kind,) = datasets.configured(config).labels
    assert kind.mapping == {0: 0, 1: 1, 2: 1, 255: VOID}


def test_folder_layouts(tmp_path):
    _touch(tmp_path, "images/train/a 1.jpg", "images/train/ü.png")
    _touch(tmp_path, "masks/train/a 1.png", "masks/train/ü.png")
    info = datasets.configured(_folder())
    assert _listed(info, "train", tmp_path) == ["a 1", "ü"]
    _touch(tmp_path, "images/train/ü.jpg")
    with pytest.raises(InputError, match="are two files of one example, 'ü'"):
        datasets.list_split(info, "train", tmp_path)

    config = _folder(images="pic/{id}.png", masks="m/{id}_m.png", lists="{split}.txt")
    _touch(tmp_path, *(f"pic/{name}.png" for name in "abc"))
    _touch(tmp_path, *(f"m/{name}_m.png" for name in "abc"))
    (tmp_path / "train.txt").write_text("c\na\n")
    assert _listed(datasets.configured(config), "train", tmp_path) == ["a", "c"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"classes": ()}, "config.dataset.classes is empty"),
        ({"ignored": (1,)}, "value 1 of config.dataset.ignored already stands"),
        ({"ignored": (256,)}, "256 .* is not an id with numbers from 0 to 255"),
        ({"classes": (("a", (1, 2, 3), ((1, 2, 3),)),)}, "of class 'a' is not an id"),
        ({"colour_masks": True, "ignored": (0,)}, "0 .* is not a colour"),
    ],
)
def test_folder_mistakes(fields, words):
    with pytest.raises(InputError, match=words):
        datasets.configured(_folder(**fields))

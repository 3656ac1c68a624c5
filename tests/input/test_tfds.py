"""Records that TFDS builders write give the batches the files give."""

import importlib.util
import itertools
import json
import pathlib
import zipfile

import numpy as np
import pytest
from etils import epath
from PIL import Image

from eseg_jax import input as eseg_input
from eseg_jax.input import InputError, datasets, tfds_source

_ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def build():
    """data/build.py's function: build(name, config, manual_dir, data_dir)."""
    spec = importlib.util.spec_from_file_location("build", _ROOT / "data/build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *args, **options: module.build(*map(str, args), **options)


def _equal(first, second):
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys() and a["id"] == b["id"]
        for key in a.keys() - {"id"}:
            np.testing.assert_array_equal(a[key], b[key])


def _roads_agree(config, root, data_dir, steps=3):
    """Asserts equal training and evaluation batches; returns those of evaluation."""
    config.dataset.update(source="files", root=str(root))
    train = list(itertools.islice(eseg_input.train_batches(config), steps))
    evaluation = list(eseg_input.eval_batches(config))
    counts = [eseg_input.num_examples(config, s) for s in ("train", "val")]

    config.dataset.update(source="tfds", root=str(data_dir))
    _equal(train, itertools.islice(eseg_input.train_batches(config), steps))
    _equal(evaluation, eseg_input.eval_batches(config))
    assert counts == [eseg_input.num_examples(config, s) for s in ("train", "val")]
    return evaluation


# --------------------------------------------------------------------- small trees


def _photo(seed, height=20, width=30):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def _ids(seed, high, height=20, width=30):
    return np.random.default_rng(seed).integers(0, high, (height, width), np.uint8)


def _palette(path, ids):
    """Saves a palette PNG whose colours say nothing about the ids."""
    image = Image.fromarray(ids).convert("P")
    image.putpalette([(5 * i + 1) % 256 for i in range(768)])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, bits=8)


@pytest.fixture
def ade20k(tmp_path, save):
    for part, count in (("training", 5), ("validation", 2)):
        for i in range(count):
            size = (20 + i, 30 - i)  # every image has a size of its own
            stem = f"{part}/ADE_{part}_{i:08d}"
            save(tmp_path / f"ade/images/{stem}.jpg", _photo(i, *size))
            save(tmp_path / f"ade/annotations/{stem}.png", _ids(i, 151, *size))
    return tmp_path / "ade"


@pytest.fixture
def camvid_720(tmp_path, save):
    (kind,) = datasets.get("camvid_720").labels
    colours = np.array(kind.colours, np.uint8)
    names = [f"0006R0_f{i:05d}" for i in range(4)] + ["0016E5_07961", "0016E5_07963"]
    for i, name in enumerate([*names, "Seq05VD_f00000"]):
        save(tmp_path / f"full/images/{name}.png", _photo(i))
        save(tmp_path / f"full/labels/{name}_L.png", colours[_ids(i, 32)])
    return tmp_path / "full"


@pytest.fixture
def voc(tmp_path, save):
    """VOC 2010 and 2012 in one: labels of both."""
    root = tmp_path / "voc"
    for lists in ("Segmentation", "SegmentationContext"):
        (root / "ImageSets" / lists).mkdir(parents=True)
        for split, ids in (("train", "abcd"), ("val", "ef")):
            (root / f"ImageSets/{lists}/{split}.txt").write_text("\n".join(ids) + "\n")
    for i, name in enumerate("abcdef"):
        save(root / f"JPEGImages/{name}.jpg", _photo(i))
        save(root / f"SegmentationClassContext/{name}.png", _ids(i, 60))
        _palette(root / f"SegmentationClass/{name}.png", _ids(i, 21))
    return root


@pytest.fixture
def vistas(tmp_path, save):
    root = tmp_path / "vistas"
    for part, count in (("training", 4), ("validation", 2), ("testing", 1)):
        for i in range(count):
            save(root / f"{part}/images/{part}{i}.jpg", _photo(i))
            if part != "testing":
                _palette(root / f"{part}/v1.2/labels/{part}{i}.png", _ids(i, 66))
                _palette(root / f"{part}/v2.0/labels/{part}{i}.png", _ids(i, 124))
    for file, count in (("config_v1.2.json", 66), ("config_v2.0.json", 124)):
        labels = [
            {"readable": f"{i}", "name": f"n{i}", "color": [i] * 3}
            | {"evaluate": i != count - 1}
            for i in range(count)
        ]
        (root / file).write_text(json.dumps({"labels": labels}))
    return root


@pytest.mark.parametrize(
    ("tree", "builder", "config", "names"),
    [
        ("camvid_720", "camvid_720", "", ["camvid_720", "camvid_720_merged"]),
        ("ade20k", "ade20k_sceneparse", "", ["ade20k"]),
        ("voc", "pascal_context", "", ["pascal_context_59", "pascal_context_60"]),
        ("voc", "voc2012", "", ["voc2012"]),
        ("vistas", "mapillary_vistas", "v1.2", ["mapillary_v1"]),
        ("vistas", "mapillary_vistas", "v2.0", ["mapillary_v2"]),
    ],
)
def test_records_are_the_files(
    tree, builder, config, names, request, build, tmp_path, make_config
):
    root = request.getfixturevalue(tree)
    build(builder, config, root, tmp_path / "tfds")
    for name in names:
        config = make_config(name, root)
        in_files = eseg_input.dataset_info(config)
        config.dataset.update(source="tfds", root=str(tmp_path / "tfds"))
        in_records = eseg_input.dataset_info(config)
        assert in_records.class_names == in_files.class_names
        for split in ("train", "val"):
            found = datasets.list_split(in_files, split, root)
            files = [
                (e.id, pathlib.Path(e.image).read_bytes(), pathlib.Path(e.label))
                for e in found.examples
            ]
            records, kind = tfds_source.list_split(
                in_records, split, config.dataset.root
            )
            assert (kind.name, kind.mapping) == (found.kind.name, found.kind.mapping)
            for (name, image, label), record in zip(files, records, strict=True):
                data = tfds_source.read(record)
                pair = tfds_source.image_and_label(data, in_records.records)
                assert record.id == name
                assert [x.numpy() for x in pair] == [image, label.read_bytes()]


def test_own_folder(build, tmp_path, save, make_config):
    root = tmp_path / "mine"
    colours = np.array([(9, 9, 9), (1, 2, 3), (0, 0, 0)], np.uint8)
    for i, name in enumerate(["a 1", "ü", "c", "d", "e"]):
        save(root / f"pics/{name}.jpg", _photo(i))
        save(root / f"masks/{name}_m.png", colours[_ids(i, 3)])
    (root / "train.txt").write_text("ü\na 1\nd\n")
    (root / "val.txt").write_text("c\ne\n")
    layout = {"images": "pics/{id}.*", "masks": "masks/{id}_m.png"}
    layout |= {"lists": "{split}.txt"}
    build("folder", json.dumps({"name": "mine"} | layout), root, tmp_path / "tfds")
    config = make_config("folder")
    config.dataset.update(layout, colour_masks=True, records="folder/mine")
    config.dataset.classes = (("road", (9, 9, 9)), ("sky", (1, 2, 3)))
    config.dataset.ignored = ("others",)
    c, e = _roads_agree(config, root, tmp_path / "tfds")
    np.testing.assert_array_equal(
        c["label"][0], np.array([0, 1, 255])[_ids(2, 3)].astype(np.uint8)
    )


# ----------------------------------------------------------------------- real data


def test_real_camvid_by_both_roads(real_data, build, tmp_path, make_config):
    root = real_data / "camvid480"
    build("camvid", "", root, tmp_path)
    config = make_config("camvid", crop=(240, 320), brightness=0.2, hue=0.1)
    config.dataset.train_split = "trainval"
    config.eval.batch_size = 4
    _roads_agree(config, root, tmp_path, steps=5)


def test_real_cityscapes_by_both_roads(real_data, build, save, tmp_path, make_config):
    """TFDS' own builder, from zip files as the site has them."""
    root = real_data / "cityscapes_mini"
    # The official archive has labels for the test images too, with nothing in them.
    (image,) = root.glob("leftImg8bit/test/*/*")
    name = image.name.replace("leftImg8bit", "gtFine_labelIds")
    save(tmp_path / name, np.zeros((1024, 2048), np.uint8))
    for folder in ("leftImg8bit", "gtFine"):
        with zipfile.ZipFile(tmp_path / f"{folder}_trainvaltest.zip", "w") as archive:
            for path in sorted(root.glob(f"{folder}/*/*/*.png")):
                archive.write(path, path.relative_to(root))
            if folder == "gtFine":
                archive.write(tmp_path / name, f"gtFine/test/berlin/{name}")
    build("cityscapes", "semantic_segmentation", tmp_path, tmp_path / "tfds")
    config = make_config("cityscapes", crop=(256, 512))
    _roads_agree(config, root, tmp_path / "tfds", steps=2)


# ------------------------------------------------------------------------ what can fail


@pytest.fixture
def prepared(camvid, build, tmp_path, make_config):
    """The configuration of a small CamVid in records, and the folder of its shards."""
    build("camvid", "", camvid, tmp_path / "tfds")
    config = make_config("camvid", tmp_path / "tfds")
    config.dataset.source = "tfds"
    return config, tmp_path / "tfds/camvid/1.0.0"


def test_a_second_build_changes_nothing(prepared, camvid, build, tmp_path):
    _, folder = prepared
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {f"eseg_index_{split}.json" for split in ("train", "val")} <= before.keys()
    build("camvid", "", camvid, tmp_path / "tfds")
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_build_that_was_killed_is_started_again(
    camvid, build, tmp_path, make_config, monkeypatch
):
    path_type = type(epath.Path(camvid))
    read = path_type.read_bytes

    def killed(path):
        if path.name == "val_1.png":
            raise KeyboardInterrupt
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(path_type, "read_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            build("camvid", "", camvid, tmp_path / "tfds")
    config = make_config("camvid", tmp_path / "tfds")
    config.dataset.source = "tfds"
    with pytest.raises(InputError, match="is not prepared"):
        eseg_input.eval_batches(config)
    build("camvid", "", camvid, tmp_path / "tfds")
    assert [b["id"] for b in eseg_input.eval_batches(config)] == [
        [f"val_{i}"] for i in range(3)
    ]


def test_overwrite_takes_in_what_has_changed(prepared, camvid, build, tmp_path, save):
    config, _ = prepared
    save(camvid / "valannot/val_0.png", np.full((20, 30), 4, np.uint8))
    build("camvid", "", camvid, tmp_path / "tfds")
    assert next(eseg_input.eval_batches(config))["label"].max() > 4
    build("camvid", "", camvid, tmp_path / "tfds", overwrite=True)
    assert (next(eseg_input.eval_batches(config))["label"] == 4).all()


def test_index_is_made_when_absent_foreign_or_half_written(prepared):
    config, folder = prepared
    path = folder / "eseg_index_train.json"
    whole = path.read_text()
    for text in (None, whole[:-9], whole.replace('"shards": [["', '"shards": [["x')):
        path.unlink()
        if text is not None:
            path.write_text(text)
        assert eseg_input.num_examples(config, "train") == 5
        assert path.read_text() == whole


def test_folder_that_cannot_be_written(prepared, monkeypatch, caplog):
    config, folder = prepared
    (folder / "eseg_index_train.json").unlink()

    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(type(epath.Path(folder)), "write_text", refuse)
    assert eseg_input.num_examples(config, "train") == 5
    assert "cannot be kept" in caplog.text


def _message(batches):
    with pytest.raises(InputError) as error:
        list(batches)
    message = str(error.value)
    assert message.endswith(".") and "\n" not in message
    return message


def test_damaged_record_is_named(prepared):
    config, folder = prepared
    info = eseg_input.dataset_info(config)
    records, _ = tfds_source.list_split(info, "val", config.dataset.root)
    record = records[1]
    shard = pathlib.Path(record.shard)
    data = bytearray(shard.read_bytes())
    data[record.offset + record.length // 2] ^= 1
    shard.write_bytes(data)
    message = _message(eseg_input.eval_batches(config))
    assert f"Record val_1 (bytes from {record.offset} of {shard}) is damaged" in message

    (folder / "eseg_index_val.json").unlink()
    with pytest.raises(InputError, match=f"{shard} is damaged after byte "):
        eseg_input.eval_batches(config)


def test_bad_label_inside_a_record_is_named(camvid, build, tmp_path, make_config, save):
    save(camvid / "valannot/val_1.png", np.full((20, 30), 77, np.uint8))
    build("camvid", "", camvid, tmp_path / "tfds")
    config = make_config("camvid", tmp_path / "tfds")
    config.dataset.source = "tfds"
    message = _message(eseg_input.eval_batches(config))
    assert message.startswith("Label val_1 (bytes from") and "the value 77" in message


def test_missing_shards_and_builds(prepared, tmp_path):
    config, folder = prepared
    (shard,) = folder.glob("camvid-val.tfrecord-*")
    shard.rename(shard.with_name("camvid-val.tfrecord-00000-of-00002"))
    with pytest.raises(InputError, match="shards 1 of 2 of TFDS split 'val' are miss"):
        eseg_input.eval_batches(config)
    config.dataset.train_split = "test"
    with pytest.raises(InputError, match="all shards of TFDS split 'test' are missing"):
        eseg_input.train_batches(config)
    config.dataset.root = str(tmp_path)
    with pytest.raises(
        InputError, match="`tfds build data/camvid --manual_dir=FOLDER`"
    ):
        eseg_input.eval_batches(config)
    config.dataset.source = "tfrecord"
    with pytest.raises(InputError, match="choose 'files' or 'tfds'"):
        eseg_input.eval_batches(config)


def test_nothing_to_build(build, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="camvid split 'train' not found in"):
        build("camvid", "", tmp_path, tmp_path / "tfds")

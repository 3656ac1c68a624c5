"""Batches of which a share has pseudo-labels."""

import json
import shutil

import numpy as np
import pytest

from eseg_jax import input
from eseg_jax.input import pseudo, pseudo_records


@pytest.fixture
def folder(tmp_path, save):
    """Four images of 20x30, image k all 10k + 5; every pixel is class k, as sure as
    its column number times 8."""
    root, out = tmp_path / "wild", tmp_path / "pseudo"
    records = []
    for k in range(4):
        save(root / f"a/{k}.png", np.full((20, 30, 3), 10 * k + 5, np.uint8))
        argmax = np.full((20, 30), k, np.uint8)
        confidence = np.tile(np.arange(30, dtype=np.uint8) * 8, (20, 1))
        label = np.where(confidence >= 128, argmax, np.uint8(255))
        for name, pixels in (
            ("argmax", argmax),
            ("confidence", confidence),
            ("labels", label),
        ):
            save(out / name / f"a/{k}.png", pixels)
        records.append({"name": f"a/{k}", "image": f"a/{k}.png"})
    records.append({"name": "torn", "image": "torn.png", "broken": "torn.png: no"})
    names = input.datasets.get("camvid").class_names
    lines = [json.dumps(record) + "\n" for record in records]
    (out / "manifest.jsonl").write_text("".join(lines))
    meta = {
        "trained_on": [{"dataset": "camvid", "split": "train", "root": ""}],
        "labelled": {"name": "images", "images": "somewhere"},
        "root": str(root),
        "class_names": list(names),
        "coverage": 0.5,
        "classes": {name: {"level": 128} for name in names},
    }
    (out / "pseudo.json").write_text(json.dumps(meta))
    return out


@pytest.fixture
def config(make_config, camvid, folder):
    config = make_config("camvid", camvid, crop=(20, 30), scale=(1.0, 1.0), flip=False)
    config.dataset.update(
        pseudo=str(folder), pseudo_root="", pseudo_may_know_eval=False
    )
    config.input.update(pseudo_fraction=0.5, pseudo_threshold=0.0, pseudo_weights=False)
    return config


def _take(config, count, **options):
    batches = input.train_batches(config, **options)
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def _equal(a, b):
    assert a["id"] == b["id"]
    for name in ("image", "label"):
        np.testing.assert_array_equal(a[name], b[name])


def test_rows_alternate_and_each_part_goes_through_its_images(config):
    batches = _take(config, 4)
    for batch in batches:
        assert [name.startswith("a/") for name in batch["id"]] == [False, True] * 2
        for name, image, label in zip(
            batch["id"], batch["image"], batch["label"], strict=True
        ):
            if name.startswith("a/"):
                k = int(name[2:])
                assert (image == 10 * k + 5).all()
                np.testing.assert_array_equal(
                    label, np.tile(np.where(np.arange(30) >= 16, k, 255), (20, 1))
                )
            else:
                np.testing.assert_array_equal(image[..., 0], label * 20)
    guessed = [name for batch in batches for name in batch["id"][1::2]]
    assert sorted(guessed[:4]) == sorted(guessed[4:]) == [f"a/{k}" for k in range(4)]


def test_a_quarter_is_spread_evenly():
    def stream(size, value):
        while True:
            rows = np.full((size, 1, 1), value, np.uint8)
            yield {"image": rows, "label": rows, "id": [str(value)] * size}

    batch = next(pseudo.mix(stream(6, 0), stream(2, 1), 0.25))
    assert batch["label"].ravel().tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    assert batch["id"] == ["0", "0", "0", "1"] * 2


def test_mixing_is_a_function_of_seed_and_element(config):
    config.input.update(crop=(12, 16), scale=(0.5, 2.0), flip=True, pseudo_weights=True)
    whole = _take(config, 3)
    _equal(_take(config, 1, start_step=2)[0], whole[2])
    halves = [_take(config, 3, process_index=p, process_count=2) for p in range(2)]
    for step, batch in enumerate(whole):
        joined = {
            name: np.concatenate([half[step][name] for half in halves])
            for name in ("image", "label")
        }
        _equal(joined | {"id": halves[0][step]["id"] + halves[1][step]["id"]}, batch)
    config.seed = 1
    assert any(a["id"] != b["id"] for a, b in zip(_take(config, 3), whole, strict=True))


def test_true_rows_are_those_of_a_run_without(config):
    mixed = _take(config, 2)
    config.dataset.pseudo = ""
    config.input.batch_size = 2
    for a, b in zip(mixed, _take(config, 2), strict=True):
        _equal({name: a[name][::2] for name in a}, b)


@pytest.mark.parametrize("threshold, first", [(0.25, 8), (0.75, 24)])
def test_threshold_at_read_time_goes_either_way(config, threshold, first):
    config.input.pseudo_threshold = threshold
    (batch,) = _take(config, 1)
    k = int(batch["id"][1][2:])
    wanted = np.where(8 * np.arange(30) > 255 * threshold, k, 255)
    assert (wanted != 255).argmax() == first
    np.testing.assert_array_equal(batch["label"][1], np.tile(wanted, (20, 1)))


def test_weights_keep_a_pixel_as_often_as_it_is_sure(config):
    config.input.update(pseudo_weights=True, batch_size=8)
    rows = [row for batch in _take(config, 25) for row in batch["label"][1::2]]
    share = (np.array(rows) != 255).mean(axis=(0, 1))  # of 2,000 pixels a column
    wanted = np.where(np.arange(30) >= 16, 8 * np.arange(30) / 255, 0)
    np.testing.assert_allclose(share, wanted, atol=0.05)
    assert (share[:16] == 0).all()


@pytest.mark.parametrize("threshold, weights", [(0, False), (0.25, False), (0, True)])
def test_shards_give_the_batches_of_files(config, folder, threshold, weights):
    config.input.update(crop=(12, 16), scale=(0.5, 2.0), flip=True)
    config.input.update(pseudo_threshold=threshold, pseudo_weights=weights)
    wanted = _take(config, 3)

    lines = [line for line in pseudo.read_manifest(folder) if "broken" not in line]
    files = {"argmax": folder / "argmax", "confidence": folder / "confidence"}
    files["image"] = folder.parent / "wild"
    examples = []
    for line in lines:
        file = f"{line['name']}.png"
        examples.append({x: (path / file).read_bytes() for x, path in files.items()})
    data, places = pseudo_records.pack(examples)
    for path in (*files.values(), folder / "labels"):
        shutil.rmtree(path)
    (folder / "records").mkdir()
    (folder / "records" / "0.tfrecord").write_bytes(data)
    for line, place in zip(lines, places, strict=True):
        line |= {"shard": "records/0.tfrecord", "place": place}
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "manifest.jsonl").write_text(text)
    for a, b in zip(_take(config, 3), wanted, strict=True):
        _equal(a, b)

    damaged = bytearray(data)
    damaged[places[0][0] + 20] ^= 1
    (folder / "records" / "0.tfrecord").write_bytes(damaged)
    with pytest.raises(input.InputError, match=r"a/0 \(bytes from 12 of .* is damaged"):
        _take(config, 3)


def test_moved_images_are_found(config, tmp_path):
    (tmp_path / "wild").rename(tmp_path / "moved")
    config.dataset.pseudo_root = str(tmp_path / "moved")
    assert len(_take(config, 1)[0]["id"]) == 4


def _change(folder, **fields):
    path = folder / "pseudo.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("field", ["trained_on", "labelled"])
def test_what_the_teacher_knows_is_no_evaluation(config, folder, field):
    # "trainval" holds the images of "val", under another row of the same dataset.
    known = {"dataset": "camvid", "split": "trainval", "root": ""}
    _change(folder, **{field: [known] if field == "trained_on" else known})
    with pytest.raises(input.InputError, match=r"camvid 'trainval'.*measured on"):
        input.train_batches(config)
    config.dataset.pseudo_may_know_eval = True
    input.check_pseudo_labels(config)


def test_unfit_folders_are_refused(config, folder):
    _change(folder, class_names=["road", "sky"])
    with pytest.raises(input.InputError, match="have the classes road, sky"):
        input.check_pseudo_labels(config)
    (folder / "pseudo.json").write_text("{}")
    with pytest.raises(input.InputError, match="not complete"):
        input.check_pseudo_labels(config)
    (folder / "pseudo.json").unlink()
    with pytest.raises(input.InputError, match="--mode=pseudo_label"):
        input.check_pseudo_labels(config)


@pytest.mark.parametrize("fraction, processes", [(0.3, 1), (0.25, 2), (0.1, 1)])
def test_fractions_of_an_image_are_refused(config, fraction, processes):
    config.input.pseudo_fraction = fraction
    with pytest.raises(input.InputError, match="no whole number of images"):
        input.train_batches(config, process_count=processes)

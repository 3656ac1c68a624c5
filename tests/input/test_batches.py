import itertools
import logging
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from eseg_jax import input as eseg_input
from eseg_jax.input import InputError

_PAD = np.array([124, 116, 104])


def _take(batches, count):
    return list(itertools.islice(batches, count))


def _equal(a, b):
    assert a["id"] == b["id"]
    np.testing.assert_array_equal(a["image"], b["image"])
    np.testing.assert_array_equal(a["label"], b["label"])


def _colourful(make_config, root, **inputs):
    """Every transform on, so that equal batches mean equal draws."""
    ranges = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1}
    return make_config("camvid", root, **(ranges | inputs))


# ---------------------------------------------------------------------------- training


def test_batch_has_the_contracts_types(make_config, camvid):
    (batch,) = _take(eseg_input.train_batches(make_config("camvid", camvid)), 1)
    assert set(batch) == {"image", "label", "id"}
    assert batch["image"].shape == (4, 16, 24, 3) and batch["image"].dtype == np.uint8
    assert batch["label"].shape == (4, 16, 24) and batch["label"].dtype == np.uint8
    assert all(isinstance(name, str) for name in batch["id"])


def test_image_and_label_move_together(make_config, camvid):
    # In these trees image = 20 * label. At scale 1 nothing is interpolated.
    config = make_config("camvid", camvid, crop=(30, 26), scale=(1.0, 1.0))
    seen = set()
    for batch in _take(eseg_input.train_batches(config), 10):
        padding = batch["label"] == 255
        assert (batch["image"][padding] == _PAD).all()
        for channel in range(3):
            image = batch["image"][..., channel]
            np.testing.assert_array_equal(
                image[~padding], batch["label"][~padding] * 20
            )
        # Rows are padded from 20 to 30 wherever the window fell; columns never are.
        assert (padding.sum(axis=1) == 10).all()
        seen |= set(padding[:, 0, 0])
    assert seen == {True, False}


def test_image_and_label_stay_together_when_scaled(make_config, camvid):
    config = make_config("camvid", camvid, crop=(40, 60), scale=(2.0, 2.0))
    for batch in _take(eseg_input.train_batches(config), 5):
        # Enlarged twice, only the two pixels about an edge of a square are mixed.
        label = batch["label"].astype(int)
        flat = np.ones(label.shape, bool)
        for axis in (1, 2):
            for shift in (-1, 1):
                flat &= np.roll(label, shift, axis) == label
        inner = flat[:, 1:-1, 1:-1]
        assert inner.mean() > 0.5
        np.testing.assert_array_equal(
            batch["image"][:, 1:-1, 1:-1, 0][inner], 20 * label[:, 1:-1, 1:-1][inner]
        )


def test_the_same_seed_gives_the_same_batches_and_another_does_not(make_config, camvid):
    config = _colourful(make_config, camvid)
    first = _take(eseg_input.train_batches(config), 3)
    for a, b in zip(first, _take(eseg_input.train_batches(config), 3), strict=True):
        _equal(a, b)
    config.seed = 1
    other = _take(eseg_input.train_batches(config), 3)
    assert any((a["image"] != b["image"]).any() for a, b in zip(first, other))  # noqa: B905


def test_start_step_continues_with_the_very_next_batch(make_config, camvid):
    config = _colourful(make_config, camvid)
    unbroken = _take(eseg_input.train_batches(config), 7)
    for start in (1, 4):  # 5 images, batches of 4: in the middle of an epoch
        resumed = _take(eseg_input.train_batches(config, start_step=start), 3)
        for a, b in zip(unbroken[start:], resumed, strict=False):
            _equal(a, b)


def test_far_start_step_is_where_the_arithmetic_says(make_config, camvid):
    config = make_config("camvid", camvid, batch_size=5)
    a, b = _take(eseg_input.train_batches(config, start_step=1_000_000), 2)
    (c,) = _take(eseg_input.train_batches(config, start_step=1_000_001), 1)
    _equal(b, c)
    assert sorted(a["id"]) == sorted(b["id"]) == [f"train_{i}" for i in range(5)]


def test_a_run_resumed_after_1000_steps_continues_with_the_very_next_element(
    make_config, camvid
):
    config = make_config("camvid", camvid, batch_size=1, crop=(4, 4))
    unbroken = itertools.islice(eseg_input.train_batches(config), 1000, 1003)
    resumed = _take(eseg_input.train_batches(config, start_step=1000), 3)
    for a, b in zip(unbroken, resumed, strict=True):
        _equal(a, b)


def test_files_kept_in_memory_change_nothing(make_config, camvid):
    config = _colourful(make_config, camvid, batch_size=5)
    expected = _take(eseg_input.train_batches(config), 4)
    config.input.cache_gb = 1e-6  # one kilobyte: some of the files
    for a, b in zip(expected, eseg_input.train_batches(config), strict=False):
        _equal(a, b)
    config.input.cache_gb = 1.0
    batches = eseg_input.train_batches(config)
    _equal(next(batches), expected[0])  # an epoch: all files have been read
    for file in (camvid / "train").iterdir():
        file.unlink()
    for a, b in zip(expected[1:], batches, strict=False):
        _equal(a, b)


def test_two_processes_read_disjoint_halves_of_each_split(make_config, camvid):
    config = make_config("camvid", camvid, batch_size=4)
    config.dataset.train_split = "trainval"  # 8 images
    config.eval.batch_size = 2
    training, evaluation = [], []
    for process in range(2):
        share = {"process_index": process, "process_count": 2}
        epoch = _take(eseg_input.train_batches(config, **share), 2)
        training.append([name for batch in epoch for name in batch["id"]])
        evaluation.append(
            [
                name
                for batch in eseg_input.eval_batches(config, **share)
                for name, real in zip(batch["id"], batch["mask"], strict=True)
                if real
            ]
        )
    val = {f"val_{i}" for i in range(3)}
    for halves, split in (
        (training, val | {f"train_{i}" for i in range(5)}),
        (evaluation, val),
    ):
        assert len(sum(halves, [])) == len(split) and set(sum(halves, [])) == split


def test_processes_share_each_batch(make_config, camvid):
    config = _colourful(make_config, camvid)
    whole = _take(eseg_input.train_batches(config, start_step=2), 4)
    halves = [
        _take(
            eseg_input.train_batches(
                config, start_step=2, process_index=p, process_count=2
            ),
            4,
        )
        for p in range(2)
    ]
    for batch, a, b in zip(whole, *halves, strict=True):
        assert a["image"].shape[0] == b["image"].shape[0] == 2
        joined = {k: np.concatenate([a[k], b[k]]) for k in ("image", "label")}
        _equal(batch, joined | {"id": a["id"] + b["id"]})


def test_more_or_fewer_processes_go_on_where_others_stopped(make_config, camvid):
    config = _colourful(make_config, camvid)
    whole = _take(eseg_input.train_batches(config), 10)
    for start, stop, count in ((0, 3, 2), (3, 7, 1), (7, 10, 4)):
        shares = [
            _take(
                eseg_input.train_batches(
                    config, start_step=start, process_index=p, process_count=count
                ),
                stop - start,
            )
            for p in range(count)
        ]
        for batch, *parts in zip(whole[start:stop], *shares, strict=True):
            joined = {
                k: np.concatenate([part[k] for part in parts])
                for k in ("image", "label")
            }
            _equal(batch, joined | {"id": sum((part["id"] for part in parts), [])})
    # 40 rows of 5 images: none is skipped, none repeated within an epoch.
    ids = sum((batch["id"] for batch in whole), [])
    assert all(len(set(ids[i : i + 5])) == 5 for i in range(0, 40, 5))


def test_each_epoch_is_a_permutation_and_epochs_differ(make_config, camvid):
    config = make_config("camvid", camvid, batch_size=1)
    ids = [b["id"][0] for b in _take(eseg_input.train_batches(config), 5 * 8)]
    epochs = [tuple(ids[i : i + 5]) for i in range(0, len(ids), 5)]
    for epoch in epochs:
        assert sorted(epoch) == [f"train_{i}" for i in range(5)]
    assert len(set(epochs)) > 4


def test_the_same_image_is_augmented_differently_each_time(make_config, camvid):
    config = _colourful(make_config, camvid)
    batches = _take(eseg_input.train_batches(config), 10)
    images = {}
    for batch in batches:
        for name, image in zip(batch["id"], batch["image"], strict=True):
            images.setdefault(name, set()).add(image.tobytes())
    assert sum(map(len, images.values())) == 40


def test_real_images_keep_their_place(make_config, real_data):
    config = make_config(
        "camvid", real_data / "camvid480", crop=(360, 480), scale=(1.0, 1.0), flip=False
    )
    (batch,) = _take(eseg_input.train_batches(config), 1)
    for row in range(4):
        stem = real_data / "camvid480"
        label = np.array(Image.open(stem / f"trainannot/{batch['id'][row]}.png"))
        image = np.array(Image.open(stem / f"train/{batch['id'][row]}.jpg"))
        np.testing.assert_array_equal(batch["image"][row], image)
        np.testing.assert_array_equal(
            batch["label"][row], np.where(label == 11, 255, label)
        )


# -------------------------------------------------------------------------- evaluation


def test_evaluation_is_whole_images_in_order(make_config, camvid):
    batches = list(eseg_input.eval_batches(make_config("camvid", camvid)))
    assert [batch["id"] for batch in batches] == [["val_0"], ["val_1"], ["val_2"]]
    for index, batch in enumerate(batches):
        assert batch["image"].shape == (1, 20, 30, 3)
        assert batch["mask"].dtype == bool and batch["mask"].all()
        corners = batch["label"][0, [0, 0, 19], [0, 29, 29]]
        np.testing.assert_array_equal(corners, np.array([0, 2, 5]) + index)


def test_evaluation_maps_label_ids(make_config, cityscapes):
    batches = list(eseg_input.eval_batches(make_config("cityscapes", cityscapes)))
    assert [np.unique(batch["label"]).tolist() for batch in batches] == [[0], [1]]


def test_last_batch_is_padded_and_processes_get_equal_numbers(make_config, camvid):
    config = make_config("camvid", camvid)
    config.eval.batch_size = 2
    processes = [
        list(eseg_input.eval_batches(config, process_index=p, process_count=2))
        for p in range(2)
    ]
    assert [len(batches) for batches in processes] == [2, 2]
    ids = [[batch["id"] for batch in batches] for batches in processes]
    assert ids == [[["val_0"], ["val_2"]], [["val_1"], [""]]]
    padding = processes[1][1]
    np.testing.assert_array_equal(padding["mask"], [False])
    assert padding["image"].shape == (1, 20, 30, 3) and (padding["label"] == 255).all()

    config.eval.batch_size = 4
    (batch,) = eseg_input.eval_batches(config)
    np.testing.assert_array_equal(batch["mask"], [True, True, True, False])
    assert (batch["label"][3] == 255).all() and (batch["label"][:3] < 11).all()


def test_images_of_different_sizes_need_batches_of_one(make_config, camvid, save):
    save(camvid / "val/val_1.png", np.zeros((10, 12, 3), np.uint8))
    save(camvid / "valannot/val_1.png", np.zeros((10, 12), np.uint8))
    config = make_config("camvid", camvid)
    assert [b["image"].shape[1:3] for b in eseg_input.eval_batches(config)] == [
        *((20, 30), (10, 12), (20, 30))
    ]
    config.eval.batch_size = 3
    message = _error(eseg_input.eval_batches(config))
    assert "val_0 (30x20) and val_1 (12x10) differ in size" in message
    assert "--config.eval.batch_size=1" in message


def test_counts_and_info(make_config, camvid):
    config = make_config("camvid", camvid)
    assert eseg_input.num_examples(config, "train") == 5
    assert eseg_input.num_examples(config, "trainval") == 8
    assert eseg_input.dataset_info(config).num_classes == 11


# ------------------------------------------------------------------------------ scenes


def test_scenes_train(make_config):
    config = make_config("scenes", batch_size=6)
    first, second = _take(eseg_input.train_batches(config), 2)
    assert sorted(first["id"]) == [f"train_{i:06d}" for i in range(6)]
    assert first["image"].shape == (6, 16, 24, 3)
    assert ((first["label"] < 19) | (first["label"] == 255)).all()
    (resumed,) = _take(eseg_input.train_batches(config, start_step=1), 1)
    _equal(second, resumed)


def test_scenes_evaluate_on_scenes_of_their_own(make_config):
    config = make_config("scenes")
    batches = list(eseg_input.eval_batches(config))
    assert [batch["id"] for batch in batches] == [[f"val_{i:06d}"] for i in range(3)]
    assert batches[0]["image"].shape == (1, 32, 64, 3)
    training = [eseg_input.draw_scene(config, "train", i)[0] for i in range(6)]
    for batch in batches:
        assert all((batch["image"][0] != image).any() for image in training)
    for again, batch in zip(eseg_input.eval_batches(config), batches, strict=True):
        _equal(again, batch)


def test_scenes_do_not_depend_on_the_training_seed(make_config):
    config = make_config("scenes")
    (first, *_) = eseg_input.eval_batches(config)
    config.seed = 5
    (other, *_) = eseg_input.eval_batches(config)
    _equal(first, other)


def test_program_ends_though_scenes_are_still_being_drawn(make_config):
    config = make_config("scenes").to_dict()
    config["dataset"]["train_images"] = 1_000_000  # never a scene from memory
    code = f"""
        import time
        from ml_collections import ConfigDict
        from eseg_jax import input as eseg_input
        from eseg_jax.input import scenes

        draw = scenes.draw

        def slow_draw(*args):
            time.sleep(0.05)
            return draw(*args)

        scenes.draw = slow_draw
        batches = eseg_input.train_batches(ConfigDict({config!r}))
        next(batches)
        """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=90
    )


# ------------------------------------------------------------------------------ errors


def _error(batches) -> str:
    """The message of the InputError the batches end with: one line, one cause."""
    with pytest.raises(InputError) as error:
        for _ in batches:
            pass
    assert error.value.__cause__ is None and error.value.__suppress_context__
    message = str(error.value)
    assert "\n" not in message and message.endswith(".")
    return message


def _truncate(path):
    path.write_bytes(path.read_bytes()[:60])


def test_missing_data_is_an_error_at_the_call(make_config):
    with pytest.raises(InputError, match="camvid not found: /not/here"):
        eseg_input.train_batches(make_config("camvid", "/not/here"))
    with pytest.raises(InputError, match="camvid not found: /not/here"):
        eseg_input.eval_batches(make_config("camvid", "/not/here"))


def test_batch_that_cannot_be_shared_evenly(make_config, camvid):
    config = make_config("camvid", camvid)
    with pytest.raises(
        InputError, match="config.input.batch_size=4 cannot be shared evenly by 3 proc"
    ):
        eseg_input.train_batches(config, process_count=3)
    with pytest.raises(InputError, match="config.eval.batch_size=1 .* multiple of 2"):
        eseg_input.eval_batches(config, process_count=2)


def test_truncated_image_stops_training_with_its_name(make_config, camvid):
    _truncate(camvid / "train/train_3.png")
    message = _error(eseg_input.train_batches(make_config("camvid", camvid)))
    assert f"Image {camvid}/train/train_3.png cannot be decoded" in message
    assert "config.input.max_broken_files is 0" in message


def test_size_mismatch_stops_training_with_both_names(make_config, camvid, save):
    save(camvid / "trainannot/train_2.png", np.zeros((9, 30), np.uint8))
    message = _error(eseg_input.train_batches(make_config("camvid", camvid)))
    assert f"Image {camvid}/train/train_2.png is 30x20 but its label" in message


def test_label_ids_named_train_ids_stop_training(make_config, cityscapes, save):
    for path in cityscapes.glob("gtFine/train/*/*"):
        save(path, np.full((8, 16), 26, np.uint8))
        path.rename(str(path).replace("labelIds", "labelTrainIds"))
    message = _error(eseg_input.train_batches(make_config("cityscapes", cityscapes)))
    assert "these look like labelIds, not trainIds" in message


def test_evaluation_tolerates_nothing(make_config, camvid):
    _truncate(camvid / "val/val_1.png")
    config = make_config("camvid", camvid, max_broken_files=9)
    batches = eseg_input.eval_batches(config)
    assert next(batches)["id"] == ["val_0"]
    assert f"Image {camvid}/val/val_1.png cannot be decoded" in _error(batches)


def test_broken_files_are_logged_counted_and_replaced(make_config, camvid, caplog):
    config = _colourful(make_config, camvid, max_broken_files=2)
    good = _take(eseg_input.train_batches(config), 10)
    _truncate(camvid / "train/train_2.png")
    _truncate(camvid / "trainannot/train_3.png")
    with caplog.at_level(logging.WARNING, logger="eseg_jax.input"):
        batches = _take(eseg_input.train_batches(config), 10)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert any("train/train_2.png" in warning for warning in warnings)
    assert any("trainannot/train_3.png" in warning for warning in warnings)

    # Both are replaced by the next readable one; the others are as they were.
    stand_in = {"train_2": "train_4", "train_3": "train_4"}
    for before, after in zip(good, batches, strict=True):
        assert after["id"] == [stand_in.get(name, name) for name in before["id"]]
        for row, name in enumerate(before["id"]):
            if name not in stand_in:
                same = before["image"][row] == after["image"][row]
                assert same.all()

    # A resumed run has not met the broken files yet and comes to the same batches.
    resumed = _take(eseg_input.train_batches(config, start_step=6), 4)
    for a, b in zip(batches[6:], resumed, strict=True):
        _equal(a, b)


def test_more_broken_files_than_tolerated(make_config, camvid):
    for index in (0, 1, 4):
        _truncate(camvid / f"train/train_{index}.png")
    config = make_config("camvid", camvid, max_broken_files=2)
    message = _error(eseg_input.train_batches(config))
    assert "This is broken example number 3" in message
    assert "config.input.max_broken_files is 2" in message


def test_all_files_broken_ends_whatever_is_tolerated(make_config, camvid):
    for index in range(5):
        _truncate(camvid / f"train/train_{index}.png")
    config = make_config("camvid", camvid, max_broken_files=100)
    assert "broken example number 5" in _error(eseg_input.train_batches(config))

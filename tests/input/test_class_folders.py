"""Folders of classified images: what is found, and what becomes of it."""

import io

import numpy as np
import pytest
from PIL import Image

from eseg_jax import input as eseg_input
from eseg_jax.input import InputError


@pytest.fixture
def tree(tmp_path, save):
    """3 classes in train, 2 of them in val; image k of class c is 10c + k all over."""
    root = tmp_path / "classes"
    for split, counts in (("train", (3, 2, 1)), ("val", (2, 0, 1))):
        for number, (name, count) in enumerate(
            zip(("cat", "dog", "owl"), counts, strict=True)
        ):
            for k in range(count):
                kind = "PNG" if k % 2 else "jpeg"
                path = root / split / name / f"{k}.{kind}"
                save(path, np.full((20 + k, 30, 3), 10 * number + k, np.uint8))
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    return root


@pytest.fixture
def config(tree, make_config):
    return make_config("class_folders", tree, crop=(8, 8))


def test_what_is_found(config):
    info = eseg_input.dataset_info(config)
    assert info.class_names == ("cat", "dog", "owl")
    assert eseg_input.is_classification(config)
    assert eseg_input.num_examples(config, "train") == 6
    assert eseg_input.num_examples(config, "val") == 3


def test_an_epoch_shows_every_image_once(config):
    config.input.batch_size = 6
    batch = next(eseg_input.train_batches(config))
    assert batch["image"].shape == (6, 8, 8, 3) and batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    assert sorted(batch["label"]) == [0, 0, 0, 1, 1, 2]
    values = batch["image"].astype(int)
    # Constant images stay what they are through crop, resize and flip.
    assert sorted(values[:, 0, 0, 0]) == [0, 1, 2, 10, 11, 20]
    np.testing.assert_array_equal(values[:, 0, 0, 0] // 10, batch["label"])
    assert batch["id"][0].endswith((".jpeg", ".PNG"))


def test_the_stream_depends_on_seed_and_step_alone(config):
    first = eseg_input.train_batches(config)
    batches = [next(first) for _ in range(4)]
    resumed = next(eseg_input.train_batches(config, start_step=3))
    half = next(
        eseg_input.train_batches(config, start_step=3, process_index=1, process_count=2)
    )
    np.testing.assert_array_equal(resumed["image"], batches[3]["image"])
    np.testing.assert_array_equal(half["image"], batches[3]["image"][2:])
    np.testing.assert_array_equal(half["label"], batches[3]["label"][2:])


def gradient(size):
    """An image of `size` whose red is the column and whose green is the row."""
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.uint8)
    return np.stack([columns, rows, 0 * rows], axis=-1)


@pytest.fixture
def one_image(tmp_path, save, make_config):
    for name in ("a", "b"):
        for split in ("train", "val"):
            save(tmp_path / split / name / "x.png", gradient((64, 128)))
    return make_config("class_folders", tmp_path, crop=(28, 28), batch_size=2)


def test_evaluation_shows_the_centre(one_image):
    one_image.eval.batch_size = 4
    (batch,) = eseg_input.eval_batches(one_image)
    assert batch["mask"].tolist() == [True, True, False, False]
    assert batch["label"].tolist() == [0, 1, -1, -1]
    # 56 of 64 rows and as many columns, halved: from row 4 and column 36 on.
    image = batch["image"][0].astype(int)
    assert image.shape == (28, 28, 3)
    np.testing.assert_allclose(image[:, 5, 1], 4.5 + 2 * np.arange(28), atol=1)
    np.testing.assert_allclose(image[5, :, 0], 36.5 + 2 * np.arange(28), atol=1)


def test_training_shows_different_parts_and_mirrors_some(one_image):
    batches = eseg_input.train_batches(one_image)
    images = np.concatenate([next(batches)["image"] for _ in range(10)]).astype(int)
    slopes = images[:, 14, -1, 0] - images[:, 14, 0, 0]
    assert 3 < np.sum(slopes < 0) < 17  # mirrored
    heights = images[:, -1, 14, 1] - images[:, 0, 14, 1]
    assert heights.min() > 0 and len(set(heights)) > 5  # never upside down
    one_image.input.flip = False
    image = next(eseg_input.train_batches(one_image))["image"].astype(int)
    assert (image[:, 14, -1, 0] > image[:, 14, 0, 0]).all()


def test_a_broken_file_is_named(config, tree):
    path = tree / "val" / "cat" / "0.jpeg"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="cat/0.jpeg cannot be read"):
        list(eseg_input.eval_batches(config))


def test_mistakes_end_with_one_sentence(config, tmp_path, save, make_config):
    missing = make_config("class_folders", tmp_path / "none")
    with pytest.raises(InputError, match="none/train is not a folder; set --config"):
        eseg_input.dataset_info(missing)
    save(tmp_path / "one" / "train" / "cat" / "0.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="has 1 class folder; .* at least 2"):
        eseg_input.dataset_info(make_config("class_folders", tmp_path / "one"))
    save(tmp_path / "classes" / "val" / "cow" / "0.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="cow, which the training split lacks"):
        eseg_input.num_examples(config, "val")


def test_imagenet_from_tensorflow_datasets(make_config, monkeypatch):
    from eseg_jax.input import class_images

    def png(value):
        data = io.BytesIO()
        Image.fromarray(np.full((20, 30, 3), value, np.uint8)).save(data, "png")
        return data.getvalue()

    examples = [{"image": png(50 * i), "label": 300 + i} for i in range(4)]
    monkeypatch.setattr(class_images, "_data_source", lambda config, split: examples)
    config = make_config("imagenet2012", crop=(8, 8))
    batch = next(eseg_input.train_batches(config))
    assert sorted(batch["label"]) == [300, 301, 302, 303]  # beyond a uint8
    np.testing.assert_array_equal(
        batch["image"][:, 0, 0, 0], 50 * (batch["label"] - 300)
    )
    assert eseg_input.dataset_info(config).num_classes == 1000
    assert eseg_input.num_examples(config, "validation") == 50_000
    with pytest.raises(InputError, match="no split 'val'; choose one of train, valid"):
        eseg_input.num_examples(config, "val")


def test_imagenet_that_is_not_prepared(make_config, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    config = make_config("imagenet2012", tmp_path)
    with pytest.raises(InputError, match="prepare it with `tfds build imagenet2012"):
        eseg_input.train_batches(config)

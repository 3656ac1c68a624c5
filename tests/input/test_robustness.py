"""Files that are not as one would wish: each has its right pixels or its message."""

import io
import itertools
import logging

import numpy as np
import pytest
from PIL import Image

from eseg_jax import input as eseg_input
from eseg_jax.input import InputError, datasets, folders
from eseg_jax.input.datasets import Example
from eseg_jax.input.tf_cpu import tf

CAMVID = datasets.DATASETS["camvid"]
(INDEX,) = CAMVID.labels
_ORIENTATION = 274
_RNG = np.random.default_rng(0)
_BOX = (3, 5, 7, 9)


def _photo(height=20, width=30):
    """Smooth, so that JPEG keeps most of it."""
    small = Image.fromarray(_RNG.integers(0, 256, (4, 5, 3), np.uint8))
    return small.resize((width, height))


def _bytes(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _decoded(data):
    """The image, after checking that a part of it is the same whichever way."""
    whole = folders.decode_image(tf.constant(data)).numpy()
    y, x, h, w = _BOX
    for decode_whole in (False, True):
        part = folders.decode_image(
            tf.constant(data), tf.constant(_BOX), decode_whole=decode_whole
        )
        np.testing.assert_array_equal(part, whole[y : y + h, x : x + w])
    return whole


# ------------------------------------------------------------------------- right pixels


def test_16_bit_images_keep_their_high_byte():
    values = _RNG.integers(0, 1 << 16, (20, 30), np.uint16)
    image = _decoded(_bytes(Image.fromarray(values)))
    np.testing.assert_array_equal(image, np.stack([values >> 8] * 3, axis=-1))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("options", [{}, {"transparency": 0}])
def test_palette_images_are_their_colours(bits, options):
    image = _photo().quantize(2**bits)
    np.testing.assert_array_equal(
        _decoded(_bytes(image, bits=bits, **options)), np.array(image.convert("RGB"))
    )


def test_alpha_of_an_image_is_dropped():
    pixels = _RNG.integers(0, 256, (20, 30, 4), np.uint8)
    image = _decoded(_bytes(Image.fromarray(pixels)))
    np.testing.assert_array_equal(image, pixels[..., :3])


def test_grey_jpegs():
    data = _bytes(_photo().convert("L"), "JPEG", quality=95)
    grey = np.array(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(_decoded(data), np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize("progressive", [False, True])
def test_parts_of_jpegs_with_fewer_colours_than_pixels(progressive):
    photo = _photo(70, 90)
    data = _bytes(photo, "JPEG", quality=90, subsampling=2, progressive=progressive)
    whole = folders.decode_image(tf.constant(data)).numpy()
    for y, x, h, w in (
        (0, 0, 16, 16),
        (16, 32, 16, 16),
        (15, 17, 33, 31),
        (69, 89, 1, 1),
    ):
        part = folders.decode_image(tf.constant(data), tf.constant((y, x, h, w)))
        np.testing.assert_array_equal(part, whole[y : y + h, x : x + w])


def test_cmyk_jpegs_are_what_pillow_makes_of_them():
    data = _bytes(_photo().convert("CMYK"), "JPEG", quality=95)
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB"), int)
    assert abs(_decoded(data) - expected).max() <= 1


def test_exif_orientation_is_not_applied_and_the_label_must_agree(tmp_path, save):
    stored = _photo(20, 30)
    exif = Image.Exif()
    exif[_ORIENTATION] = 6  # shown as 30 rows of 20
    data = _bytes(stored, "JPEG", quality=95, exif=exif)
    np.testing.assert_array_equal(
        _decoded(data), np.array(Image.open(io.BytesIO(data)))
    )

    example = Example("a", str(tmp_path / "a.jpg"), str(tmp_path / "a.png"))
    (tmp_path / "a.jpg").write_bytes(data)
    save(tmp_path / "a.png", np.zeros((20, 30), np.uint8))
    assert folders.problem(CAMVID, INDEX, example) is None
    save(tmp_path / "a.png", np.zeros((30, 20), np.uint8))
    problem = folders.problem(CAMVID, INDEX, example)
    assert "is 30x20 but its label" in problem
    assert "EXIF orientation would turn it to that size" in problem


def _tree(root, save, sizes):
    """Cityscapes layout; image i is 10 * i, its train id i, both everywhere."""
    for i, size in enumerate(sizes):
        stem = f"train/ulm/ulm_{i:06d}_000019"
        image = np.full((*size, 3), 10 * i, np.uint8)
        save(root / f"leftImg8bit/{stem}_leftImg8bit.png", image)
        label = np.full(size, (7, 8, 11, 12)[i], np.uint8)
        save(root / f"gtFine/{stem}_gtFine_labelIds.png", label)


def _check(batch):
    for name, image, label in zip(
        batch["id"], batch["image"], batch["label"], strict=True
    ):
        i = int(name.split("_")[1])
        assert (image[label == i] == 10 * i).all() and (label == i).any()
        assert ((label == i) | (label == 255)).all()


def test_paths_with_spaces_and_any_letters(tmp_path, save, make_config):
    root = tmp_path / "meine Städte 道路"
    _tree(root, save, [(8, 16)] * 2)
    config = make_config("cityscapes", root, batch_size=2, crop=(8, 8))
    _check(next(eseg_input.train_batches(config)))


def test_images_of_one_pixel_and_of_different_sizes(tmp_path, save, make_config):
    _tree(tmp_path, save, [(1, 1), (40, 3), (8, 16), (1, 50)])
    config = make_config("cityscapes", tmp_path, batch_size=4, crop=(16, 24))
    for batch in itertools.islice(eseg_input.train_batches(config), 3):
        assert len(set(batch["id"])) == 4
        _check(batch)
    config.dataset.eval_split = "train"
    shapes = [batch["label"].shape[1:] for batch in eseg_input.eval_batches(config)]
    assert shapes == [(1, 1), (40, 3), (8, 16), (1, 50)]


# ----------------------------------------------------------------------------- messages


def _empty(path):
    path.write_bytes(b"")


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def _alpha(path):
    Image.open(path).convert("LA").save(path)


@pytest.mark.parametrize(
    ("harm", "file", "words"),
    [
        (_empty, "train/train_2.png", "Image {} is empty"),
        (_empty, "trainannot/train_2.png", "Label {} is empty"),
        (_truncate, "train/train_2.png", "Image {} cannot be decoded: it is truncated"),
        (_truncate, "trainannot/train_2.png", "Label {} cannot be decoded"),
        (_alpha, "trainannot/train_2.png", "Label {} is a PNG of 8-bit grey+alpha"),
    ],
)
def test_harm_is_named_and_counted_whatever_the_crop(
    make_config, camvid, caplog, harm, file, words
):
    path = camvid / file
    harm(path)
    config = make_config("camvid", camvid, batch_size=5, crop=(2, 2), scale=(2.0, 2.0))
    with pytest.raises(InputError) as error:
        next(eseg_input.train_batches(config))
    assert words.format(path) in str(error.value)

    config.input.max_broken_files = 1
    with caplog.at_level(logging.WARNING, logger="eseg_jax.input"):
        (batch,) = itertools.islice(eseg_input.train_batches(config), 1)
    (record,) = caplog.records
    assert words.format(path) in record.getMessage()
    assert sorted(batch["id"]) == sorted(
        ["train_0", "train_1", "train_3", "train_3", "train_4"]
    )

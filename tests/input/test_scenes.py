"""The built-in street scenes: repeatable, complete, the same at every size."""

import subprocess
import sys

import numpy as np
import pytest

from eseg_jax.input import scenes

_CLASSES = 19
_SAMPLE = 120


@pytest.fixture(scope="module")
def sample():
    """Scenes at the default size: images [n, h, w, 3] and labels [n, h, w]."""
    pairs = [scenes.draw(0, index) for index in range(_SAMPLE)]
    return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])


@pytest.mark.parametrize("size", [(128, 256), (32, 32), (65, 97), (48, 200), (200, 48)])
def test_shapes_and_types(size):
    image, label = scenes.draw(3, 4, size)
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    assert label.shape == size and label.dtype == np.uint8
    assert image.flags.c_contiguous and label.flags.c_contiguous


def test_same_seed_and_index_give_the_same_scene():
    first = scenes.draw(7, 11, (64, 128))
    scenes.draw(7, 12, (64, 128))
    for a, b in zip(first, scenes.draw(7, 11, (64, 128)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_same_scene_in_another_process():
    code = (
        "import sys, zlib; from eseg_jax.input import scenes;"
        "a, b = scenes.draw(1, 2, (48, 96));"
        "print(zlib.crc32(a.tobytes()), zlib.crc32(b.tobytes()))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] != ""


def test_results_are_the_callers_to_change():
    image, label = scenes.draw(5, 0, (48, 96))
    kept = image.copy(), label.copy()
    image[:], label[:] = 0, 0
    for a, b in zip(kept, scenes.draw(5, 0, (48, 96)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("other", [(0, 1), (1, 0)])
def test_another_index_or_seed_gives_another_scene(other):
    image, label = scenes.draw(0, 0, (64, 128))
    other_image, other_label = scenes.draw(*other, (64, 128))
    assert np.mean(label != other_label) > 0.05
    assert np.mean(np.abs(image.astype(int) - other_image)) > 5


def test_labels_are_train_ids_or_ignored(sample):
    ids = set(np.unique(sample[1]).tolist())
    assert ids == {*range(_CLASSES), scenes.IGNORE}
    assert np.mean(sample[1] == scenes.IGNORE) < 0.05


@pytest.mark.parametrize("train_id", range(_CLASSES))
def test_every_class_is_common_enough_to_learn(sample, train_id):
    pixels = np.sum(sample[1] == train_id, axis=(1, 2))
    assert np.mean(pixels >= 50) >= 0.15  # 50 of 128 * 256 pixels: an object, not dust.
    assert np.sum(pixels) / sample[1].size >= 0.002


def test_light_differs_and_is_neither_black_nor_burnt(sample):
    brightness = sample[0].mean(axis=(1, 2, 3))
    assert brightness.min() < 70 and brightness.max() > 130
    assert brightness.min() > 10 and brightness.max() < 220
    assert (sample[0].std(axis=(1, 2, 3)) > 10).all()


def test_colour_alone_does_not_tell_the_class(sample):
    """A table from colour to class, made on its own test data, stays far from right."""
    images, labels = sample
    known = labels.ravel() < _CLASSES
    colour = (images.reshape(-1, 3)[known] // 16).astype(np.int64) @ (256, 16, 1)
    counts = np.bincount(colour * _CLASSES + labels.ravel()[known], minlength=4096 * 19)
    best = counts.reshape(4096, _CLASSES).max(axis=1)
    assert best.sum() / counts.sum() < 0.75


@pytest.mark.parametrize("index", range(6))
def test_another_size_shows_the_same_scene(index):
    image, label = scenes.draw(2, index, (64, 128))
    large_image, large_label = scenes.draw(2, index, (256, 512))
    assert np.mean(label == large_label[2::4, 2::4]) > 0.9
    small = large_image.reshape(64, 4, 128, 4, 3).mean(axis=(1, 3))
    assert np.mean(np.abs(small - image)) < 12


def test_a_square_shows_the_middle():
    _, wide = scenes.draw(2, 1, (128, 256))
    _, square = scenes.draw(2, 1, (128, 128))
    inner = slice(8, 120)  # Off the border that may be ignored.
    agree = wide[inner, 64:192][:, inner] == square[inner, inner]
    assert np.mean(agree) > 0.98


def test_sky_is_above_and_road_below(sample):
    rows = np.arange(128)[None, :, None]
    for above, below in ((scenes.SKY, scenes.ROAD), (scenes.BUILDING, scenes.SIDEWALK)):
        mean = [
            np.sum(rows * (sample[1] == i)) / np.sum(sample[1] == i)
            for i in (above, below)
        ]
        assert mean[0] + 20 < mean[1]


def test_riders_sit_on_two_wheels(sample):
    two_wheels = (sample[1] == scenes.BICYCLE) | (sample[1] == scenes.MOTORCYCLE)
    with_rider = np.sum(sample[1] == scenes.RIDER, axis=(1, 2)) >= 50
    assert np.mean(two_wheels[with_rider].any(axis=(1, 2))) > 0.95


def test_too_small_a_size_is_refused():
    with pytest.raises(ValueError, match=r"\(16, 256\).*at least 32"):
        scenes.draw(0, 0, (16, 256))

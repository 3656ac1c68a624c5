import numpy as np
import pytest
from scipy import ndimage

from eseg_jax.input import transforms
from eseg_jax.input.tf_cpu import tf

_SAME = np.arange(256, dtype=np.uint8)


def _key(element, seed=0):
    return tf.constant([seed, element], tf.int64)


def _windows(size, crop, scale, count=200):
    return np.array(
        [
            transforms.random_window(_key(i), tf.constant(size), crop, scale)
            for i in range(count)
        ]
    )


# ------------------------------------------------------------------------------ window


def test_window_at_scale_one_is_the_crop_and_reaches_every_offset():
    windows = _windows((5, 8), (3, 8), (1.0, 1.0))
    np.testing.assert_array_equal(np.unique(windows[:, 0]), [0, 1, 2])
    np.testing.assert_array_equal(np.unique(windows[:, 1]), [0])
    np.testing.assert_array_equal(np.unique(windows[:, 2:], axis=0), [[3, 8]])


def test_window_larger_than_the_image_lies_anywhere_around_it():
    windows = _windows((3, 9), (4, 4), (0.8, 0.8))  # 4 / 0.8 = 5
    np.testing.assert_array_equal(np.unique(windows[:, 0]), [-2, -1, 0])
    np.testing.assert_array_equal(np.unique(windows[:, 1]), [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(np.unique(windows[:, 2:], axis=0), [[5, 5]])


def test_scale_range_is_covered_uniformly():
    heights = _windows((1000, 1000), (100, 100), (0.5, 2.0), 400)[:, 2]
    scales = 100 / heights
    assert 0.495 < scales.min() < 0.52 and 1.95 < scales.max() < 2.05
    # The mean of 400 draws from U[0.5, 2]: 1.25 +- 4 standard errors of 0.0217.
    assert abs(scales.mean() - 1.25) < 0.09


def test_grid_of_scales():
    heights = [
        int(
            transforms.random_window(
                _key(i), tf.constant([999, 999]), (60, 60), (0.5, 1.25), step=0.25
            )[2]
        )
        for i in range(60)
    ]
    assert set(heights) == {120, 80, 60, 48}  # 60 / 0.5, 0.75, 1 and 1.25
    assert min(map(heights.count, heights)) >= 7  # of 15, less about 3 deviations


def test_window_around_a_place_contains_it():
    size, crop = tf.constant([20, 30]), (6, 40)
    tops = set()
    for i in range(60):
        for place in ((0, 3), (19, 29), (9, 12)):
            around = tf.constant(place)
            window = transforms.random_window(
                _key(i), size, crop, (1, 1), around=around
            )
            free = transforms.random_window(_key(i), size, crop, (1, 1))
            top, left, *_ = window.numpy()
            assert max(0, place[0] - 5) <= top <= min(place[0], 14)
            assert left == free[1]  # wider than the image: nothing to choose
            if place == (9, 12):
                tops.add(int(top))
    assert tops == {4, 5, 6, 7, 8, 9}
    nowhere = transforms.random_window(
        _key(0), size, crop, (1, 1), around=tf.constant([-1, -1])
    )
    free = transforms.random_window(_key(0), size, crop, (1, 1))
    np.testing.assert_array_equal(nowhere, free)


def test_window_depends_on_seed_and_element_only():
    def draw(seed, element):
        key = _key(element, seed)
        window = transforms.random_window(key, tf.constant([99, 99]), (9, 9), (0.5, 2))
        return tuple(window.numpy())

    assert draw(0, 1) == draw(0, 1)
    assert len({draw(0, 0), draw(0, 1), draw(1, 0), draw(1, 1)}) == 4


@pytest.mark.parametrize(
    ("window", "size", "crop", "box", "target"),
    [
        # Inside: all of the crop is filled.
        ((2, 3, 4, 6), (10, 10), (8, 12), (2, 3, 4, 6), (0, 0, 8, 12)),
        # The image lies inside the window, 1 pixel from its top and 3 from its left.
        ((-1, -3, 8, 8), (5, 4), (16, 16), (0, 0, 5, 4), (2, 6, 10, 8)),
        # Rows padded, columns inside; shrunk to half.
        ((-2, 5, 8, 8), (6, 20), (4, 4), (0, 5, 6, 8), (1, 0, 3, 4)),
        # A single pixel, shrunk, at the far edge, still gets a pixel of the crop.
        ((-7, -7, 8, 8), (1, 1), (4, 4), (0, 0, 1, 1), (3, 3, 1, 1)),
    ],
)
def test_place_window(window, size, crop, box, target):
    result = transforms.place_window(tf.constant(window), tf.constant(size), crop)
    np.testing.assert_array_equal(result[0], box)
    np.testing.assert_array_equal(result[1], target)


# ---------------------------------------------------------------------------- geometry


def test_resize_is_half_pixel_bilinear_and_nearest():
    row = np.array([[0, 100]], np.uint8)
    example = {"image": np.stack([row] * 3, axis=-1), "label": tf.constant(row)}
    wide = transforms.resize(example, (1, 4), _SAME)
    np.testing.assert_array_equal(wide["image"][0, :, 0], [0, 25, 75, 100])
    np.testing.assert_array_equal(wide["label"][0], [0, 0, 100, 100])
    assert wide["image"].dtype == tf.uint8 and wide["label"].dtype == tf.uint8


def test_shrinking_by_two_averages_neighbours():
    row = np.array([[0, 10, 100, 201]], np.uint8)
    example = {"image": np.stack([row] * 3, axis=-1), "label": tf.constant(row)}
    small = transforms.resize(example, (1, 2), _SAME)
    # 150.5 is a tie; halves go up.
    np.testing.assert_array_equal(small["image"][0, :, 2], [5, 151])
    np.testing.assert_array_equal(small["label"][0], [10, 201])


def test_labels_are_resized_as_tensorflow_does_and_mapped():
    rng = np.random.default_rng(0)
    table = rng.permutation(_SAME)
    for _ in range(50):
        h, w, *size = rng.integers(1, 300, 4)
        label = rng.integers(0, 256, (h, w), np.uint8)
        example = {"image": tf.zeros((h, w, 3), tf.uint8), "label": tf.constant(label)}
        expected = tf.image.resize(label[..., None], size, method="nearest")[..., 0]
        mapped = transforms.resize(example, tf.constant(size), table)["label"]
        np.testing.assert_array_equal(mapped, table[expected.numpy()])


def test_blur_is_scipys_gaussian():
    rng = np.random.default_rng(0)
    for height, width, sigma in ((70, 40, 1.3), (5, 3, 2.0), (1, 1, 1.0), (9, 9, 0.1)):
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        blurred = transforms.random_blur({"image": image}, _key(0), (sigma, sigma))
        expected = ndimage.gaussian_filter(
            image.astype(np.float32), (sigma, sigma, 0), mode="nearest"
        )
        # Rounding to the nearest of 256 values, and float32.
        assert abs(blurred["image"].numpy() - expected).max() < 0.501
        off = transforms.random_blur({"image": image}, _key(0), (0.0, 0.0))
        assert off["image"] is image


def test_padding_is_the_mean_colour_and_255():
    example = {
        "image": tf.constant([[[0, 128, 255]]], tf.uint8),
        "label": tf.constant([[7]], tf.uint8),
    }
    padded = transforms.pad_to(example, tf.constant([0, 1]), (2, 3))
    pad = [124, 116, 104]
    np.testing.assert_array_equal(
        padded["image"], [[pad, [0, 128, 255], pad], [pad, pad, pad]]
    )
    np.testing.assert_array_equal(padded["label"], [[255, 7, 255], [255, 255, 255]])
    whole = transforms.pad_to(example, tf.constant([0, 0]), (1, 1))
    np.testing.assert_array_equal(whole["image"], example["image"])


def test_flip_mirrors_both_about_half_of_the_time():
    label = np.arange(6, dtype=np.uint8).reshape(2, 3)
    image = np.stack([label] * 3, axis=-1)
    example = {"image": tf.constant(image), "label": tf.constant(label)}
    mirrored = 0
    for element in range(100):
        flipped = transforms.random_flip(example, _key(element))
        np.testing.assert_array_equal(flipped["image"][..., 1], flipped["label"])
        if flipped["label"][0, 0] == 2:
            np.testing.assert_array_equal(flipped["label"], label[:, ::-1])
            mirrored += 1
        else:
            np.testing.assert_array_equal(flipped["label"], label)
    assert 30 <= mirrored <= 70


# ------------------------------------------------------------------------------ colour

_OFF = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
_IMAGE = np.array([[[100, 110, 120], [140, 90, 100]]], np.uint8)


def _colour(element, **ranges):
    example = {"image": tf.constant(_IMAGE)}
    return transforms.random_colour(example, _key(element), **(_OFF | ranges))["image"]


def test_ranges_of_zero_leave_the_image_alone():
    np.testing.assert_array_equal(_colour(0), _IMAGE)


def test_brightness_adds_one_number_within_its_range():
    changes = []
    for element in range(50):
        change = _colour(element, brightness=0.2).numpy().astype(int) - _IMAGE
        assert len(np.unique(change)) == 1
        changes.append(change[0, 0, 0])
    assert -51 <= min(changes) < -30 and 30 < max(changes) <= 51


def test_contrast_keeps_each_channels_mean():
    image = _colour(3, contrast=0.5).numpy().astype(int)
    np.testing.assert_allclose(image.mean((0, 1)), _IMAGE.mean((0, 1)), atol=0.5)
    factor = (image[0, 1, 0] - image[0, 0, 0]) / 40
    assert 0.5 <= factor <= 1.5 and factor != 1


def test_saturation_keeps_the_largest_channel():
    image = _colour(1, saturation=0.5).numpy()
    np.testing.assert_array_equal(image.max(-1), _IMAGE.max(-1))
    assert (image != _IMAGE).any()


def test_hue_keeps_the_largest_and_the_smallest_value():
    image = _colour(2, hue=0.3).numpy()
    np.testing.assert_array_equal(image.max(-1), _IMAGE.max(-1))
    np.testing.assert_array_equal(image.min(-1), _IMAGE.min(-1))
    assert (image != _IMAGE).any()


def test_values_are_clipped_not_wrapped():
    bright = {"image": tf.constant([[[250, 0, 128]]], tf.uint8)}
    for element in range(20):
        image = transforms.random_colour(
            bright, _key(element), **(_OFF | {"brightness": 0.5})
        )["image"].numpy()[0, 0]
        assert image[1] <= image[2] <= image[0]


def test_each_transform_has_its_own_stream():
    # Adding a later change leaves what an earlier one drew as it was.
    grey = {"image": tf.constant([[[100, 100, 100]]], tf.uint8)}
    alone = transforms.random_colour(grey, _key(5), **(_OFF | {"brightness": 0.3}))
    both = transforms.random_colour(
        grey, _key(5), **(_OFF | {"brightness": 0.3, "saturation": 0.3, "hue": 0.1})
    )
    np.testing.assert_array_equal(alone["image"], both["image"])

"""Stateless augmentation: the same key gives the same result, image and label together.

A key is int64 [2], (seed, element index); every function folds its own number into it,
so switching one transform on or off does not change what the others draw.

The window comes first: `random_window` chooses the part of the source that scale jitter
followed by a random crop would keep, so that only this part is decoded, cropped and
resized. Images are uint8 [h, w, 3], labels uint8 [h, w].
"""

from __future__ import annotations

import functools

import numpy as np

from eseg_jax.input.datasets import IGNORE
from eseg_jax.input.tf_cpu import tf

# The mean colour of ImageNet, so that padding is 0 after normalisation (ESeg pads with
# 0 after normalisation), to the nearest of the 256 values.
PAD_COLOUR = (124, 116, 104)
_BLUR_ROWS = 32


def random_window(key, image_size, crop, scale, *, step=0.0, around=None, long_side=0):
    """Draws the part of the source that fills the crop.

    Equals resizing the image by s ~ U[scale] and cropping at random: the window is
    crop / s large and lies anywhere inside the image; along an axis on which it is
    larger than the image it lies anywhere around it (our choice: others put the
    padding at the bottom and right only, and the network could learn that).

    Args:
      key: int64 [2].
      image_size: int32 [2], height and width.
      crop: (height, width) of the result.
      scale: (low, high) of s; continuous (ESeg, from EfficientDet).
      step: above 0, s is one of low, low + step, … up to high (HRNet's grid is 0.5 to
        2.1 by 0.1), each as likely.
      around: int32 [2], a row and a column that the window is to contain wherever it
        lies inside the image (SFNet's class-uniform crops); None or negative for none.
      long_side: pixels that s = 1 gives the longer side of each image; 0 its own.

    Returns:
      int32 [4]: top, left, height, width in source pixels; may stick out of the image.
    """
    draws = uniform(key, 0, [3])
    low, high = scale
    if step:
        count = int((high - low) / step + 1e-6) + 1
        s = low + step * tf.minimum(tf.floor(draws[0] * count), count - 1)
    else:
        s = low + draws[0] * (high - low)
    if long_side:
        s *= long_side / tf.cast(tf.reduce_max(image_size), tf.float32)
    size = tf.maximum(1, tf.cast(tf.round(tf.constant(crop, tf.float32) / s), tf.int32))
    room = image_size - size
    span = tf.abs(room)
    offset = tf.cast(draws[1:] * tf.cast(span + 1, tf.float32), tf.int32)
    offset = tf.minimum(offset, span)  # float32 may round the product up to span + 1
    if around is not None:
        before = tf.cast(draws[1:] * tf.cast(size, tf.float32), tf.int32)
        inside = tf.clip_by_value(around - before, 0, tf.maximum(room, 0))
        offset = tf.where((around >= 0) & (room >= 0), inside, offset)
    return tf.concat([tf.sign(room) * offset, size], axis=0)


def place_window(window, image_size, crop):
    """Which part of the image a window shows, and where in the crop that part lands.

    Args:
      window: int32 [4], from `random_window`.
      image_size: int32 [2].
      crop: (height, width).

    Returns:
      (box, target), int32 [4] each: top, left, height, width of the visible part in the
      image, and of its place in the crop.
    """
    start, size = window[:2], window[2:]
    first = tf.maximum(start, 0)
    last = tf.minimum(start + size, image_size)
    per_pixel = tf.constant(crop, tf.float64) / tf.cast(size, tf.float64)

    def in_crop(position):
        position = tf.cast(position - start, tf.float64)
        return tf.cast(tf.round(position * per_pixel), tf.int32)

    target_size = tf.maximum(in_crop(last) - in_crop(first), 1)
    target_first = tf.minimum(in_crop(first), tf.constant(crop) - target_size)
    return (
        tf.concat([first, last - first], axis=0),
        tf.concat([target_first, target_size], axis=0),
    )


def crop_to(array, box):
    """The part `box` (top, left, height, width) of [h, w] or [h, w, c]."""
    rest = array.shape.rank - 2
    return tf.slice(
        array,
        tf.concat([box[:2], [0] * rest], axis=0),
        tf.concat([box[2:], [-1] * rest], axis=0),
    )


def resize(example, size, table):
    """Resizes image (bilinear) and label (nearest), both with half-pixel centres.

    No antialiasing, also when shrinking: down to the usual lowest scale of 0.5 bilinear
    still weighs every source pixel or nearly so, the papers' toolchains do without, and
    TensorFlow's antialiased kernel takes 15 ms instead of 3 for a 512x1024 crop, next
    to 20 for decoding that part of a Cityscapes PNG.

    Args:
      example: image uint8 [h, w, 3] and label uint8 [h, w], with any ids.
      size: int32 [2], height and width of the result.
      table: uint8 [256], id -> train id, applied to the label.
    """
    image = tf.image.resize(example["image"], size, method="bilinear")
    # NumPy, as TensorFlow's gather of single bytes takes five times as long.
    label = tf.numpy_function(
        functools.partial(_nearest, table), [example["label"], size], tf.uint8
    )
    return example | {
        "image": _to_uint8(image),
        "label": tf.ensure_shape(label, [None, None]),
    }


def _nearest(table: np.ndarray, label: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The label's ids mapped and resized, by the rule of tf.image.resize."""

    def positions(count, full):
        step = np.float32(full) / np.float32(count)
        centres = (np.arange(count, dtype=np.float32) + np.float32(0.5)) * step
        return np.minimum(centres.astype(np.int64), full - 1)

    rows, columns = map(positions, size, label.shape)
    return table.take(label.take(rows, axis=0).take(columns, axis=1))


def random_flip(example, key):
    """Mirrors image and label left to right with probability 1/2."""
    return tf.cond(
        uniform(key, 1, []) < 0.5,
        lambda: (
            example
            | {
                "image": tf.reverse(example["image"], [1]),
                "label": tf.reverse(example["label"], [1]),
            }
        ),
        lambda: example,
    )


def random_colour(example, key, *, brightness, contrast, saturation, hue):
    """Changes the image's colours; each range of 0 switches its change off.

    Args:
      example: has "image"; the rest is passed on.
      key: int64 [2].
      brightness: adds U[-b, b] of the full range.
      contrast: multiplies the distance to each channel's mean by U[1 - c, 1 + c].
      saturation: multiplies the HSV saturation by U[1 - s, 1 + s].
      hue: turns the HSV hue by U[-h, h] of the circle, h <= 0.5.
    """
    if not (brightness or contrast or saturation or hue):
        return example
    image = tf.cast(example["image"], tf.float32) / 255.0
    if brightness:
        image = tf.image.adjust_brightness(image, _symmetric(key, 2, brightness))
    if contrast:
        image = tf.image.adjust_contrast(image, 1 + _symmetric(key, 3, contrast))
    if saturation:
        image = tf.image.adjust_saturation(image, 1 + _symmetric(key, 4, saturation))
    if hue:
        image = tf.image.adjust_hue(image, _symmetric(key, 5, hue))
    return example | {"image": _to_uint8(tf.clip_by_value(image, 0.0, 1.0) * 255.0)}


def random_blur(example, key, sigma):
    """Blurs the image by a Gaussian of sigma ~ U[low, high] pixels; high 0 is off.

    As scipy.ndimage.gaussian_filter: the weights end at 4 sigma, and beyond the edge
    its pixels go on.
    """
    low, high = sigma
    if not high:
        return example
    drawn = low + (high - low) * uniform(key, 6, [])
    # NumPy: TensorFlow's convolutions take 20 times as long for so few channels.
    image = tf.numpy_function(_blur, [example["image"], drawn], tf.uint8)
    return example | {"image": tf.ensure_shape(image, [None, None, 3])}


def _blur(image: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """uint8 [h, w, c] blurred, a few rows at a time so that they stay in the cache."""
    height, width, channels = image.shape
    radius = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(radius + 1) / max(sigma, 1e-3)) ** 2)
    weights = (weights / (weights[0] + 2 * weights[1:].sum())).astype(np.float32)
    padded = np.pad(image, [(radius, radius)] * 2 + [(0, 0)], "edge")
    padded = padded.reshape(height + 2 * radius, -1)
    result = np.empty((height, width * channels), np.uint8)

    def weighted(array, length, step):
        """The weighted sum of `length` items along axis 0, `step` rows apart."""
        middle = radius * step
        total = array[middle : middle + length] * weights[0]
        for k in range(1, radius + 1):
            before, after = middle - k * step, middle + k * step
            both = array[before : before + length] + array[after : after + length]
            total += both * weights[k]
        return total

    for top in range(0, height, _BLUR_ROWS):
        rows = min(_BLUR_ROWS, height - top)
        block = padded[top : top + rows + 2 * radius].astype(np.float32)
        block = weighted(block, rows, 1)
        block = weighted(block.T, width * channels, channels).T
        result[top : top + rows] = block + 0.5
    return result.reshape(image.shape)


def pad_to(example, offset, crop):
    """Puts the example at `offset` (int32 [2]) into a crop of PAD_COLOUR and 255."""
    size = tf.shape(example["label"])
    padding = tf.stack([offset, tf.constant(crop) - offset - size], axis=1)

    def pad():
        # tf.pad knows one value for all channels: pad the difference to the colour
        # with 0 (uint8 wraps around and back).
        colour = tf.constant(PAD_COLOUR, tf.uint8)
        image = tf.pad(example["image"] - colour, tf.pad(padding, [[0, 1], [0, 0]]))
        return image + colour, tf.pad(example["label"], padding, constant_values=IGNORE)

    image, label = tf.cond(
        tf.reduce_any(padding > 0), pad, lambda: (example["image"], example["label"])
    )
    return example | {
        "image": tf.ensure_shape(image, (*crop, 3)),
        "label": tf.ensure_shape(label, crop),
    }


def uniform(key, number, shape):
    """float32 in [0, 1) from the key's stream `number`."""
    return tf.random.stateless_uniform(
        shape, tf.random.experimental.stateless_fold_in(key, number)
    )


def _symmetric(key, number, half_range):
    return (2 * uniform(key, number, []) - 1) * half_range


def _to_uint8(image):
    """float32 in [0, 255] to the nearest uint8; halves go up."""
    return tf.cast(image + 0.5, tf.uint8)

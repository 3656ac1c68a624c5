"""Images and labels from files: reading, decoding, checking, and naming what is wrong.

Inside the tf.data graph a bad file only has to fail; `problem` then looks at the same
file again on the host and says in one sentence what is wrong with it.
"""

from __future__ import annotations

import functools
import zlib

import numpy as np

from eseg_jax.input import datasets, transforms
from eseg_jax.input.datasets import DatasetInfo, Example, LabelKind
from eseg_jax.input.tf_cpu import tf


def read_label(path, kind: LabelKind):
    """Label file -> uint8 [h, w] of the ids in the file (not yet train ids).

    Fails on a file that is not a PNG as the kind asks for, or holds an id that is not
    in the mapping. The whole label is checked, not only the window in use, so that
    whether a file is broken does not depend on the window.
    """
    data = tf.io.read_file(path)
    header = tf.strings.substr(data, 24, 2)
    tf.debugging.Assert(tf.reduce_any(header == datasets.label_headers(kind)), [path])
    label = _decode_label(data, kind)
    inside = [
        tf.logical_and(label >= first, label <= last) for first, last in kind.ranges()
    ]
    tf.debugging.Assert(tf.reduce_all(tf.reduce_any(inside, axis=0)), [path])
    return label


def _decode_label(data, kind: LabelKind):
    """PNG bytes -> uint8 [h, w] of ids."""
    if not kind.colours:
        return tf.io.decode_png(_without_palette(data), channels=1)[..., 0]
    colours = tf.cast(tf.io.decode_png(data, channels=3), tf.int32)
    return tf.gather(
        _colour_table(kind.colours), tf.tensordot(colours, _RGB_PLACES, axes=1)
    )


_RGB_PLACES = np.array([1 << 16, 1 << 8, 1], np.int32)


@functools.cache
def _colour_table(colours: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """uint8 [2^24]: the id of each colour."""
    table = np.full(1 << 24, datasets.OTHER_COLOUR, np.uint8)
    table[np.array(colours) @ _RGB_PLACES] = np.arange(len(colours))
    return table


# What the checksum of a PNG's header changes by when an 8-bit palette image becomes a
# grey one: checksums are linear, so the header's other bytes do not matter.
_PALETTE_TO_GREY = np.frombuffer(
    (
        zlib.crc32(b"IHDR" + 9 * b"\0" + b"\3" + 3 * b"\0")
        ^ zlib.crc32(b"IHDR" + 9 * b"\0" + b"\0" + 3 * b"\0")
    ).to_bytes(4, "big"),
    np.uint8,
)
_BYTES = [bytes([i]) for i in range(256)]


def _without_palette(data):
    """An 8-bit palette PNG as a grey one of the indices; anything else as it is.

    TensorFlow has no decoder that returns the indices: it replaces them by colours.
    """

    def as_grey():
        checksum = tf.io.decode_raw(tf.strings.substr(data, 29, 4), tf.uint8)
        checksum = tf.bitwise.bitwise_xor(checksum, _PALETTE_TO_GREY)
        return tf.strings.join(
            [
                tf.strings.substr(data, 0, 25),
                b"\0",
                tf.strings.substr(data, 26, 3),
                tf.strings.reduce_join(tf.gather(_BYTES, tf.cast(checksum, tf.int32))),
                tf.strings.substr(data, 33, tf.strings.length(data)),
            ]
        )

    is_palette = tf.strings.substr(data, 25, 1) == b"\3"
    return tf.cond(is_palette, as_grey, lambda: data)


def read_image(path, size, box=None, *, decode_whole=False):
    """PNG or JPEG file -> uint8 [h, w, 3], RGB; fails unless its size is `size`.

    Args:
      path: string scalar.
      size: int32 [2], the label's height and width.
      box: int32 [4], top, left, height, width of the part to return; None for all.
      decode_whole: read a JPEG to its end even when `box` lies above it. Otherwise the
        decoder stops early, which is faster but misses that a file is truncated.
    """
    data = tf.io.read_file(path)
    tf.debugging.Assert(tf.reduce_all(image_size(data) == size), [path])
    return decode_image(data, box, decode_whole=decode_whole)


def image_size(data):
    """int32 [2], height and width from a JPEG's or PNG's header; fails on others."""
    return tf.cond(
        tf.io.is_jpeg(data),
        lambda: tf.io.extract_jpeg_shape(data)[:2],
        lambda: _png_size(data),
    )


def decode_image(data, box=None, *, decode_whole=False):
    """The bytes of a PNG or JPEG -> uint8 [h, w, 3]; see `read_image`."""
    # TensorFlow's default DCT is a fast approximation; this one equals Pillow's.
    options = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}

    def decode_jpeg():
        if box is None:
            return tf.io.decode_jpeg(data, **options)
        if decode_whole:
            return transforms.crop_to(tf.io.decode_jpeg(data, **options), box)
        return tf.io.decode_and_crop_jpeg(data, box, **options)

    def decode_png():
        image = tf.io.decode_png(data, channels=3)
        return image if box is None else transforms.crop_to(image, box)

    return tf.cond(tf.io.is_jpeg(data), decode_jpeg, decode_png)


def _png_size(data):
    """int32 [2], height and width from the header; fails on anything but a PNG."""
    tf.debugging.Assert(tf.strings.substr(data, 1, 3) == b"PNG", ["not a PNG file"])
    return tf.io.decode_raw(
        tf.strings.substr(data, 16, 8), tf.int32, little_endian=False
    )[::-1]


def problem(info: DatasetInfo, kind: LabelKind, example: Example) -> str | None:
    """What is wrong with an example's files, as one sentence, or None."""
    data = {}
    for what, path in (("Label", example.label), ("Image", example.image)):
        try:
            data[what] = tf.io.read_file(path).numpy()
        except tf.errors.OpError as error:
            return f"{what} {path} cannot be read: {first_line(error)}."

    wrong_format = datasets.label_format_problem(
        kind, example.label, data["Label"]
    ) or datasets.image_format_problem(example.image, data["Image"])
    if wrong_format:
        return wrong_format
    try:
        label = _decode_label(data["Label"], kind).numpy()
    except tf.errors.OpError:
        return datasets.damaged_problem("Label", example.label, data["Label"])
    try:
        image = tf.io.decode_image(data["Image"], channels=3, expand_animations=False)
    except tf.errors.OpError:
        return datasets.damaged_problem("Image", example.image, data["Image"])
    return datasets.size_problem(
        example, image.shape[:2], label.shape
    ) or datasets.ids_problem(
        info, kind, example.label, tf.unique(label.ravel()).y.numpy().tolist()
    )


def first_line(error: Exception) -> str:
    """The first line of a TensorFlow error without the name of the graph node."""
    text = getattr(error, "message", str(error)).strip().splitlines()[0]
    return text.rpartition("}} ")[2].partition(" [Op:")[0]

"""Images and labels from files: reading, decoding, checking, and naming what is wrong.

Inside the tf.data graph a bad file only has to fail; `problem` then looks at the same
file again on the host and says in one sentence what is wrong with it.
"""

from __future__ import annotations

from eseg_jax.input import datasets, transforms
from eseg_jax.input.datasets import DatasetInfo, Example, LabelKind
from eseg_jax.input.tf_cpu import tf


def read_label(path, kind: LabelKind):
    """Label file -> uint8 [h, w] of the ids in the file (not yet train ids).

    Fails on a file that is not an 8-bit single-channel PNG or holds an id that is not
    in the mapping. The whole label is checked, not only the window in use, so that
    whether a file is broken does not depend on the window.
    """
    data = tf.io.read_file(path)
    # PNG header: bit depth 8 and colour type 0; see `datasets.label_format_problem`.
    tf.debugging.Assert(tf.strings.substr(data, 24, 2) == b"\x08\x00", [path])
    label = tf.io.decode_png(data, channels=1)[..., 0]
    inside = [
        tf.logical_and(label >= first, label <= last) for first, last in kind.ranges()
    ]
    tf.debugging.Assert(tf.reduce_all(tf.reduce_any(inside, axis=0)), [path])
    return label


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
    is_jpeg = tf.io.is_jpeg(data)
    image_size = tf.cond(
        is_jpeg, lambda: tf.io.extract_jpeg_shape(data)[:2], lambda: _png_size(data)
    )
    tf.debugging.Assert(tf.reduce_all(image_size == size), [path])
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

    return tf.cond(is_jpeg, decode_jpeg, decode_png)


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
        example.label, data["Label"]
    ) or datasets.image_format_problem(example.image, data["Image"])
    if wrong_format:
        return wrong_format
    try:
        label = tf.io.decode_png(data["Label"], channels=1)[..., 0].numpy()
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

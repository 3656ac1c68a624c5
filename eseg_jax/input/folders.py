"""Images and labels from files: decoding, checking, and naming what is wrong.

Pixels are taken as they are stored: an EXIF orientation is not applied, as in the tools
of the benchmarks' authors, and the label must have the size of the stored image.

Inside the tf.data graph a bad file only has to fail; `problem` then looks at the same
file again on the host and says in one sentence what is wrong with it.
"""

from __future__ import annotations

import functools
import io
import zlib

import numpy as np
from PIL import Image

from eseg_jax.input import datasets, png, transforms
from eseg_jax.input.datasets import DatasetInfo, Example, LabelKind
from eseg_jax.input.tf_cpu import tf

_EXIF_ORIENTATION = 274
_JPEG_BLOCK = 16  # height and width of what is coded together, at most


def decode_label(data, kind: LabelKind, box=None, *, decode_whole=False):
    """The bytes of a label file -> uint8 [h, w] of its ids (not yet train ids).

    Fails on a file that is not a PNG as the kind asks for, or holds an id that is not
    in the mapping.

    Args:
      data: string scalar.
      kind: of label file.
      box: int32 [4], top, left, height, width of the part to return; None for all.
      decode_whole: decode and check all of the file even when `box` is smaller.
    """
    header = tf.strings.substr(data, 24, 2)
    tf.debugging.Assert(
        tf.reduce_any(header == datasets.label_headers(kind)), ["not such a label"]
    )
    part = None if decode_whole else box
    label = _label_ids(data, kind, part)
    tf.debugging.Assert(_all_ids_allowed(label, kind), ["an id that is not listed"])
    return transforms.crop_to(label, box) if part is not box else label


def _label_ids(data, kind: LabelKind, box=None):
    """As `decode_label`, with nothing checked."""
    if not kind.colours:
        return _decode_png(_without_palette(data), 1, box)[..., 0]
    colours = tf.cast(_decode_png(data, 3, box), tf.int32)
    return tf.gather(
        _colour_table(kind.colours), tf.tensordot(colours, _RGB_PLACES, axes=1)
    )


def _all_ids_allowed(label, kind: LabelKind):
    """bool scalar: every id of the label is in the mapping."""
    ranges = kind.ranges()
    if len(ranges) == 1:  # the usual case, with less to compute
        ((first, last),) = ranges
        allowed = tf.reduce_max(label) <= last
        return allowed & (tf.reduce_min(label) >= first) if first else allowed
    inside = [(label >= first) & (label <= last) for first, last in ranges]
    return tf.reduce_all(tf.reduce_any(inside, axis=0))


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


def image_size(data):
    """int32 [2], height and width from a JPEG's or PNG's header; fails on others."""
    return tf.cond(
        tf.io.is_jpeg(data),
        lambda: tf.io.extract_jpeg_shape(data)[:2],
        lambda: png_size(data),
    )


def png_size(data):
    """int32 [2], height and width from the header; fails on anything but a PNG."""
    tf.debugging.Assert(tf.strings.substr(data, 1, 3) == b"PNG", ["not a PNG file"])
    return tf.io.decode_raw(
        tf.strings.substr(data, 16, 8), tf.int32, little_endian=False
    )[::-1]


def decode_image(data, box=None, *, decode_whole=False):
    """The bytes of a PNG or JPEG -> uint8 [h, w, 3], RGB.

    Args:
      data: string scalar.
      box: int32 [4], top, left, height, width of the part to return; None for all.
      decode_whole: read the file to its end even when `box` lies above it. Otherwise
        decoding stops early, which is faster but can miss that a file is damaged.
    """
    # TensorFlow's default DCT is a fast approximation; this one equals Pillow's.
    options = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}

    def decode_jpeg():
        if box is None:
            return tf.io.decode_jpeg(data, **options)
        if decode_whole:
            return transforms.crop_to(tf.io.decode_jpeg(data, **options), box)
        # Colours stored at half the resolution are interpolated: pixels at the edge of
        # what is decoded would miss a neighbour, so decode a block more on each side.
        first = tf.maximum(box[:2] - _JPEG_BLOCK, 0)
        last = tf.minimum(box[:2] + box[2:] + _JPEG_BLOCK, image_size(data))
        part = tf.concat([first, last - first], axis=0)
        image = tf.io.decode_and_crop_jpeg(data, part, **options)
        return transforms.crop_to(image, tf.concat([box[:2] - first, box[2:]], axis=0))

    return tf.cond(
        tf.io.is_jpeg(data),
        decode_jpeg,
        lambda: _decode_png(data, 3, box, inflate_all=decode_whole),
    )


def _decode_png(data, channels: int, box=None, *, inflate_all=False):
    """uint8 [h, w, channels], of the box only unless it is None."""
    if box is None:
        return tf.io.decode_png(data, channels=channels)

    def cut(data, height, width):
        data = data.item() if isinstance(data, np.ndarray) else data
        return png.cut(data, height, width, inflate_all=inflate_all)

    height, width = tf.unstack(box[:2] + box[2:])
    part = tf.numpy_function(cut, [data, height, width], tf.string)
    part = tf.io.decode_png(tf.ensure_shape(part, []), channels=channels)
    return transforms.crop_to(part, box)


def problem(info: DatasetInfo, kind: LabelKind, example: Example) -> str | None:
    """What is wrong with an example's files, as one sentence, or None."""
    data = {}
    for what, path in (("Label", example.label), ("Image", example.image)):
        try:
            data[what] = tf.io.read_file(path).numpy()
        except tf.errors.OpError as error:
            return f"{what} {path} cannot be read: {first_line(error)}."
    return content_problem(info, kind, example, data["Image"], data["Label"])


def content_problem(
    info: DatasetInfo, kind: LabelKind, example: Example, image: bytes, label: bytes
) -> str | None:
    """What is wrong with the bytes of an image and its label, or None."""
    wrong_format = datasets.label_format_problem(
        kind, example.label, label
    ) or datasets.image_format_problem(example.image, image)
    if wrong_format:
        return wrong_format
    try:
        ids = _label_ids(label, kind).numpy()
    except tf.errors.OpError:
        return datasets.damaged_problem("Label", example.label, label)
    try:
        pixels = tf.io.decode_image(image, channels=3, expand_animations=False)
    except tf.errors.OpError:
        return datasets.damaged_problem("Image", example.image, image)
    wrong_size = datasets.size_problem(example, pixels.shape[:2], ids.shape)
    if wrong_size:
        return wrong_size + _orientation_hint(image, ids.shape)
    return datasets.ids_problem(
        info, kind, example.label, tf.unique(ids.ravel()).y.numpy().tolist()
    )


def _orientation_hint(image: bytes, label_size) -> str:
    """A further sentence when applying the EXIF orientation would make the sizes agree.

    Viewers apply it, so a label drawn in one has the size of the turned image.
    """
    with Image.open(io.BytesIO(image)) as opened:
        turned = opened.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
        if not turned or opened.size != tuple(label_size):
            return ""
    return (
        " The image's EXIF orientation would turn it to that size, but pixels are read "
        "as they are stored; turn them with `mogrify -auto-orient`."
    )


def first_line(error: Exception) -> str:
    """The first line of a TensorFlow error without the name of the graph node."""
    text = getattr(error, "message", str(error)).strip().splitlines()[0]
    return text.rpartition("}} ")[2].partition(" [Op:")[0]

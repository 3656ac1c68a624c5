import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from eseg_jax.input import png
from eseg_jax.input.tf_cpu import tf

_RNG = np.random.default_rng(0)


def _photo(height, width):
    """Smooth, so that encoders choose filters that look at other pixels."""
    small = Image.fromarray(_RNG.integers(0, 256, (4, 5, 3), np.uint8))
    return np.array(small.resize((width, height)))


def _encode(image, **options) -> bytes:
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, "PNG", **options)
    return file.getvalue()


def _with_row_filter(pixels, kind) -> bytes:
    """An RGB PNG whose rows all have filter `kind` and whose residuals are `pixels`."""
    height, width, _ = pixels.shape
    rows = np.insert(pixels.reshape(height, -1), 0, kind, axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return png.SIGNATURE + b"".join(
        struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c))
        for n, c in chunks
    )


def _same_part(data, channels, height, width):
    whole = tf.io.decode_png(data, channels=channels).numpy()
    part = tf.io.decode_png(png.cut(data, height, width), channels=channels).numpy()
    assert part.shape == (height, width, channels)
    np.testing.assert_array_equal(part, whole[:height, :width])


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (50, 1), (13, 21), (50, 70)])
@pytest.mark.parametrize("kind", ["RGB", "L", "LA", "RGBA", "P", "1", "I;16", "P4"])
def test_part_equals_cropping_the_whole(kind, size):
    image = Image.fromarray(_photo(50, 70))
    if kind == "P4":
        data = _encode(image.quantize(16), bits=4)
    elif kind == "I;16":
        data = _encode(_RNG.integers(0, 1 << 16, (50, 70), np.uint16))
    else:
        data = _encode(image.convert(kind))
    assert len(png.cut(data, 1, 1)) < len(data)
    _same_part(data, 3, *size)


@pytest.mark.parametrize("kind", range(5))
def test_every_row_filter(kind):
    data = _with_row_filter(_RNG.integers(0, 256, (9, 11, 3), np.uint8), kind)
    _same_part(data, 3, 5, 4)


def test_more_than_one_stored_block():
    # 200 * (1 + 3 * 300) bytes are three blocks of at most 65,535.
    _same_part(_encode(_photo(300, 400)), 3, 200, 300)


def test_the_standard_library_gives_the_same_bytes(monkeypatch):
    data = _encode(_photo(50, 70))
    fast = png.cut(data, 20, 30)
    monkeypatch.setattr(png, "zlib", zlib)
    assert png.cut(data, 20, 30) == fast


def test_what_is_unusual_is_passed_on():
    data = _encode(_photo(50, 70))
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    interlaced = bytearray(data)
    interlaced[28] = 1
    interlaced[29:33] = struct.pack(">I", zlib.crc32(bytes(interlaced[12:29])))
    for other in (b"", b"\xff\xd8\xff", data[:60], data[:-1], flipped, interlaced):
        assert png.cut(bytes(other), 1, 1) == bytes(other)


def test_damage_below_the_part_is_noticed_when_asked_for():
    # The checksums are right, the pixels end in row 5 of 9.
    whole = _with_row_filter(_RNG.integers(0, 256, (9, 11, 3), np.uint8), 4)
    data = _with_row_filter(_RNG.integers(0, 256, (5, 11, 3), np.uint8), 4)
    data = whole[:33] + data[33:]
    assert len(png.cut(data, 3, 11)) < len(data)
    assert png.cut(data, 3, 11, inflate_all=True) == data
    assert png.cut(data, 6, 11) == data

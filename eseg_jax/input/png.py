"""Cuts compressed PNGs, so that the decoder is given only what the crop needs.

Decoding takes most of the time of an input pipeline that reads PNGs, and nearly all of
that goes into two things: inflating, and undoing each row's filter. A row depends on
the rows above and a pixel on those to its left, so the rows below a crop need neither,
and the columns right of it need not be unfiltered. `cut` inflates the rows that are
needed, drops the columns that are not, and packs the rest, without compression, as a
smaller PNG. Unfiltering stays with TensorFlow's decoder, outside Python.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

try:  # Intel's inflate takes a third of the time, and like zlib's runs without the GIL.
    from isal import isal_zlib as zlib
except ImportError:  # no wheel for this machine: the same pixels, only slower
    import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_PALETTE = 3
_STORED_BLOCK = 0xFFFF  # bytes in a block of deflate that is not compressed


def cut(data: bytes, height: int, width: int, *, inflate_all: bool = False) -> bytes:
    """A PNG of the rows [0, height) and columns [0, width) of another.

    Whatever is unusual (interlaced, damaged, truncated, no PNG at all) comes back as it
    is, for the decoder to decode or to refuse. So the result shows at least the part
    that was asked for.

    Args:
      data: the file's bytes.
      height: number of rows that are needed, at least 1.
      width: number of columns that are needed, at least 1.
      inflate_all: read the pixels that are not needed too. Otherwise it can depend on
        the height whether a damaged file is noticed: damage that the checksums of the
        chunks do not show, done by whatever wrote the file.
    """
    chunks = list(_chunks(data))
    if not chunks or chunks[0][0] != b"IHDR" or chunks[-1][0] != b"IEND":
        return data
    header = bytes(chunks[0][1])
    full_width, full_height, depth, colour, _, _, interlaced = struct.unpack(
        ">IIBBBBB", header
    )
    if interlaced or colour not in _CHANNELS:
        return data
    height, width = min(height, full_height), min(width, full_width)
    bits = depth * _CHANNELS[colour]
    row, cut_row = (1 + (columns * bits + 7) // 8 for columns in (full_width, width))

    inflate = zlib.decompressobj()
    rows = full_height if inflate_all else height
    packed = b"".join(content for name, content in chunks if name == b"IDAT")
    try:
        raw = inflate.decompress(packed, rows * row)
    except zlib.error:
        return data
    if len(raw) < rows * row:
        return data
    kept = np.frombuffer(raw, np.uint8, height * row).reshape(height, row)
    kept = np.ascontiguousarray(kept[:, :cut_row]).ravel()
    return b"".join(
        [
            SIGNATURE,
            *_chunk(b"IHDR", [struct.pack(">II", width, height), header[8:]]),
            *(
                part
                for name, content in chunks
                if name == b"PLTE" and colour == _PALETTE
                for part in _chunk(name, [content])
            ),
            *_chunk(b"IDAT", _stored(memoryview(kept))),
            *_chunk(b"IEND", []),
        ]
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """(name, content) of each chunk up to IEND, or to the first that is not whole."""
    view = memoryview(data)
    position = len(SIGNATURE)
    while data.startswith(SIGNATURE) and position + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, position)
        end = position + 12 + size
        if end > len(data):
            return
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(view[position + 4 : end - 4]) != checksum:
            return
        name = data[position + 4 : position + 8]
        yield name, view[position + 8 : end - 4]
        if name == b"IEND":
            return
        position = end


def _chunk(name: bytes, parts: list) -> list:
    """The parts of a chunk with its length before and its checksum behind."""
    checksum = zlib.crc32(name)
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    size = sum(len(part) for part in parts)
    return [struct.pack(">I", size), name, *parts, struct.pack(">I", checksum)]


def _stored(content: memoryview) -> list:
    """A zlib stream that holds the content uncompressed, in parts."""
    parts = [b"\x78\x01"]
    for start in range(0, len(content), _STORED_BLOCK):
        block = content[start : start + _STORED_BLOCK]
        last = start + len(block) == len(content)
        parts.append(struct.pack("<BHH", last, len(block), 0xFFFF - len(block)))
        parts.append(block)
    parts.append(struct.pack(">I", zlib.adler32(content)))
    return parts

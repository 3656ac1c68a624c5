"""What is wrong with one image or label file, as a sentence for the user.

Nothing here decodes: the callers bring the bytes, the sizes and the values they found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from eseg_jax.input.datasets.types import DatasetInfo, Example, LabelKind


def ids_problem(
    info: DatasetInfo, kind: LabelKind, path: str, ids: Iterable[int]
) -> str | None:
    """What is wrong with the ids of one label file, as a sentence, or None.

    Args:
      info: the dataset.
      kind: the kind of label file this should be.
      path: of the file, for the message.
      ids: the distinct ids in the file.
    """
    ids = set(ids)
    bad = sorted(ids - set(kind.mapping))
    if not bad:
        return None
    if kind.colours:
        return (
            f"Label {path} holds colours that {info.name} {kind.name} do not list; "
            "replace the file, or add the colours to the table."
        )
    values = f"the value{'s' if len(bad) > 1 else ''} {first_few(bad)}"
    for other in info.labels:
        if other is not kind and ids <= set(other.mapping):
            return (
                f"Label {path} holds {values}, but {info.name} {kind.name} are "
                f"{kind.allowed()}: these look like {other.name}, not {kind.name}, so "
                f"rename the files to what they are ({other.path}) or replace them."
            )
    return (
        f"Label {path} holds {values}, but {info.name} {kind.name} are "
        f"{kind.allowed()}; replace or convert the file."
    )


def label_format_problem(kind: LabelKind, path: str, data: bytes) -> str | None:
    """What is wrong with a label file's format, as a sentence, or None.

    Only the header is read. Other bit depths are refused because decoders change their
    values without a word (16 bits lose the low byte, 4 bits are scaled).
    """
    if not data:
        return f"Label {path} is empty; replace the file."
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 26:
        return f"Label {path} is not a PNG file; labels are PNGs."
    depth, colour = data[24], data[25]
    if data[24:26] in label_headers(kind):
        return None
    names = {0: "grey", 2: "RGB", 3: "palette", 4: "grey+alpha", 6: "RGBA"}
    found = (
        f"Label {path} is a PNG of {depth}-bit {names.get(colour, 'unknown')} pixels"
    )
    if kind.colours:
        return (
            f"{found}; {kind.name} are PNGs of 8-bit RGB or palette pixels, so "
            "convert it."
        )
    hint = {
        (16, 0): " (it may hold instances where classes belong)",
        (8, 2): " (it may hold colours, or instances where classes belong)",
    }.get((depth, colour), "")
    return (
        f"{found}{hint}; labels are PNGs of 8-bit grey or palette pixels whose values "
        "are the ids, so convert it."
    )


def label_headers(kind: LabelKind) -> tuple[bytes, ...]:
    """Bit depth and colour type, bytes 24 and 25 of a PNG, that a label may have."""
    if kind.colours:
        # RGB, RGBA, and palettes, which become their colours, of 1, 2, 4 and 8 bits.
        palettes = (b"\x01\x03", b"\x02\x03", b"\x04\x03", b"\x08\x03")
        return (b"\x08\x02", b"\x08\x06", *palettes)
    return (b"\x08\x00", b"\x08\x03")  # grey, palette


def image_format_problem(path: str, data: bytes) -> str | None:
    """A sentence when an image file is neither PNG nor JPEG, else None."""
    if not data:
        return f"Image {path} is empty; replace the file."
    if not data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return f"Image {path} is neither a PNG nor a JPEG file; convert it."
    return None


def damaged_problem(what: str, path: str, data: bytes) -> str:
    """The sentence about a file (`what` is "Image" or "Label") no decoder reads."""
    return (
        f"{what} {path} cannot be decoded: it is truncated or damaged ({len(data)} "
        "bytes); replace the file."
    )


def size_problem(
    example: Example, image_size: Sequence[int], label_size: Sequence[int]
) -> str | None:
    """A sentence when image and label [height, width] differ, else None."""
    if tuple(image_size) == tuple(label_size):
        return None
    return (
        f"Image {example.image} is {image_size[1]}x{image_size[0]} but its label "
        f"{example.label} is {label_size[1]}x{label_size[0]} (width x height); they "
        "must have one size, so replace the wrong one."
    )


def first_few(items: Sequence, count: int = 3) -> str:
    shown = ", ".join(str(item) for item in items[:count])
    more = len(items) - count
    return f"{shown} and {more} more" if more > 0 else shown

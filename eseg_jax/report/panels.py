"""Pictures of a label map, and panels that show a prediction beside the truth."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

TILES = ("input", "truth", "prediction", "error")
WRONG = (226, 42, 42)
IGNORED = (0, 0, 0)

_GAP = 4  # pixels between two tiles
_INK, _OUTLINE, _PAPER = (40, 44, 52), (190, 194, 200), (255, 255, 255)


def colourise(labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Paints a label map.

    Args:
      labels: uint8 `[h, w]` of train ids.
      colours: uint8 `[c, 3]`, RGB of each class.

    Returns:
      uint8 `[h, w, 3]`; ids without a colour (255, the ignored label) are black.
    """
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    return table[labels]


def error_map(image: np.ndarray, label: np.ndarray, prediction: np.ndarray):
    """uint8 `[h, w, 3]`: correct pixels a pale grey image, wrong red, ignored black."""
    grey = image.astype(np.uint16).sum(axis=-1) // 6 + 64
    out = np.repeat(grey[..., None].astype(np.uint8), 3, axis=-1)
    out[label != prediction] = WRONG
    out[label == 255] = IGNORED
    return out


def tile_boxes(height: int, width: int) -> dict[str, tuple[slice, slice]]:
    """Where the tiles of `[height, width]` pixels lie in a panel, by title."""
    top = 2 * _text_size(height)
    rows = slice(top, top + height)
    lefts = (i * (width + _GAP) for i in range(len(TILES)))
    return {t: (rows, slice(x, x + width)) for t, x in zip(TILES, lefts, strict=True)}


def _text_size(height: int) -> int:
    return min(max(height // 26, 12), 28)


def panel(
    image: np.ndarray,
    label: np.ndarray,
    prediction: np.ndarray,
    colours: np.ndarray,
    class_names,
) -> np.ndarray:
    """Input, truth, prediction and error side by side over a legend.

    Args:
      image: uint8 `[h, w, 3]`, RGB.
      label, prediction: uint8 `[h, w]` of train ids, 255 in `label` = ignored.
      colours: uint8 `[c, 3]`.
      class_names: c names; the legend shows the classes seen in either map.

    Returns:
      uint8 `[H, W, 3]`; `tile_boxes(h, w)` says where the four tiles lie.
    """
    height, width = label.shape
    boxes = tile_boxes(height, width)
    size = _text_size(height)
    font = ImageFont.load_default(size)
    present = np.union1d(label, prediction)
    entries = [(class_names[i], colours[i]) for i in present if i < len(colours)]
    entries += [("wrong", WRONG), ("ignored", IGNORED)]
    full_width = max(boxes["error"][1].stop, 320)
    key = legend(entries, full_width, size)

    below = height + 2 * size
    canvas = Image.new("RGB", (full_width, below + len(key)), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for title, (rows, columns) in boxes.items():
        middle = rows.start // 2
        draw.text((columns.start, middle), title, _INK, font, anchor="lm")

    out = np.array(canvas)
    out[below:] = key
    out[boxes["input"]] = image
    out[boxes["truth"]] = colourise(label, colours)
    out[boxes["prediction"]] = colourise(prediction, colours)
    out[boxes["error"]] = error_map(image, label, prediction)
    return out


def legend(entries, width: int, size: int) -> np.ndarray:
    """Names beside their colours, flowing like text.

    Args:
      entries: (name, colour) pairs, each colour three numbers of 0..255.
      width: of the picture, in pixels.
      size: of the text, in pixels.

    Returns:
      uint8 `[h, width, 3]`, as high as it needs to be.
    """
    font = ImageFont.load_default(size)
    left, top, places = 0, size // 2, []
    for name, colour in entries:
        advance = int(font.getlength(name)) + 3 * size
        if left and left + advance > width:
            left, top = 0, top + 2 * size
        places.append((left, top, name, tuple(int(v) for v in colour)))
        left += advance
    canvas = Image.new("RGB", (width, top + 2 * size), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for left, top, name, colour in places:
        box = (left, top, left + size, top + size)
        draw.rectangle(box, fill=colour, outline=_OUTLINE)
        middle = top + size // 2 + 1
        draw.text((left + size * 3 // 2, middle), name, _INK, font, anchor="lm")
    return np.array(canvas)


def thin(pixels: np.ndarray, max_width: int) -> np.ndarray:
    """Shrinks by the smallest whole factor that leaves at most `max_width` columns.

    Args:
      pixels: uint8; colours `[h, w, 3]` are averaged, labels `[h, w]` are picked.
    """
    factor = -(-pixels.shape[1] // max_width)
    if pixels.ndim == 2:
        return pixels[::factor, ::factor]
    return np.asarray(Image.fromarray(pixels).reduce(factor))


def cut(pixels: np.ndarray, tile: tuple[int, int]) -> dict[str, np.ndarray]:
    """The tiles of a panel by title, views of uint8 `[h, w, 3]`; `tile` is (h, w)."""
    return {title: pixels[box] for title, box in tile_boxes(*tile).items()}


def encode(pixels: np.ndarray, tile: tuple[int, int], **notes: str) -> bytes:
    """PNG of a panel that remembers the (height, width) of its tiles, and notes."""
    info = PngImagePlugin.PngInfo()
    info.add_text("tile", f"{tile[0]}x{tile[1]}")
    for key, text in notes.items():
        info.add_text(key, text)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", pnginfo=info, compress_level=4)
    return buffer.getvalue()


def decode(png: bytes) -> dict[str, np.ndarray]:
    """The tiles of a panel that `encode` wrote, by title: uint8 `[h, w, 3]`."""
    with Image.open(io.BytesIO(png)) as opened:
        height, width = map(int, opened.info["tile"].split("x"))
        return cut(np.asarray(opened), (height, width))


def notes(png: bytes) -> dict[str, str]:
    """The notes that `encode` was given."""
    with Image.open(io.BytesIO(png)) as opened:
        return {k: v for k, v in opened.info.items() if isinstance(v, str)}


def write_png(path, pixels: np.ndarray) -> None:
    """Writes uint8 `[h, w, 3]` to an `etils.epath` path."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", compress_level=4)
    path.write_bytes(buffer.getvalue())


def read_png(path) -> np.ndarray:
    """uint8 `[h, w, 3]` of what `write_png` wrote."""
    with Image.open(io.BytesIO(path.read_bytes())) as opened:
        return np.asarray(opened)

"""Small parts of a self-contained HTML page."""

import base64
import io
from html import escape

import numpy as np
from PIL import Image

from eseg_jax.report import style

TILE_WIDTH = 720  # pixels of an inlined picture
PHOTOS = ("input", "error", "who is right")  # worth JPEG; the others are label maps


def document(title: str, body: str, more_style: str = "") -> str:
    """A whole page: no script library, no network, no other files."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style.STYLE}{more_style}</style>\n"
        f"</head>\n<body>\n<main>\n{body}\n</main>\n"
        '<dialog id="zoom"><img alt=""></dialog>\n'
        f"<script>{style.SCRIPT}</script>\n</body>\n</html>\n"
    )


def section(title: str, note: str, body: str) -> str:
    """A section under its heading; `note` and `body` are HTML already."""
    note = f'<p class="note">{note}</p>' if note else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{note}\n{body}\n</section>"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in percent without the sign; a dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def packed(rgb: np.ndarray) -> np.ndarray:
    """One integer for each colour: `[..., 3]` to `[...]`."""
    return rgb.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def rgb(colour) -> str:
    """A colour of three numbers as CSS writes it."""
    return "#{:02x}{:02x}{:02x}".format(*(int(v) for v in colour))


def picture(name: str, note: str, tiles: dict[str, np.ndarray], below: str = "") -> str:
    """Tiles `[h, w, 3]` by title, side by side under a note."""
    shown = "".join(
        image(tile, TILE_WIDTH, f"{name}, {title}", photo=title in PHOTOS)
        for title, tile in tiles.items()
    )
    return (
        f'<div class="picture"><p class="note">{escape(note)}</p>'
        f'<div class="tiles">{shown}</div>{below}</div>'
    )


def image(pixels: np.ndarray, max_width: int, alt: str, photo: bool = False) -> str:
    """An inlined picture: photographs as JPEG, label maps exactly as PNG."""
    shown = Image.fromarray(pixels)
    height, width = pixels.shape[:2]
    if width > max_width:
        size = (max_width, round(height * max_width / width))
        how = Image.Resampling.BOX if photo else Image.Resampling.NEAREST
        shown = shown.resize(size, how)
    buffer = io.BytesIO()
    if photo:
        shown.save(buffer, "jpeg", quality=88, subsampling=0)
    else:
        shown.save(buffer, "png")
    kind = "jpeg" if photo else "png"
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<img alt="{escape(alt)}" title="{escape(alt)}" width="{shown.width}" '
        f'height="{shown.height}" src="data:image/{kind};base64,{data}">'
    )

"""Pictures of semantic flow, as SFNet's figures 2, 5 and 8 show it."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Columns of a sheet: the paper's figure 2, then figure 5's column (e).
TILES = ("coarse map", "flow", "warped map", "arrows")

_GAP = 4  # pixels between two tiles
_INK, _PAPER, _ARROW = (40, 44, 52), (255, 255, 255), (255, 240, 60)
_ARROW_PIXELS = 20  # between the targets of two arrows
_COLD_TO_HOT = ((18, 32, 104), (40, 150, 200), (240, 230, 90), (190, 20, 30))
# The wheel's red, yellow, green, cyan, blue and magenta; hues from each to the next.
_CORNERS = np.array(
    [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]], float
)
_STEPS = (15, 6, 4, 11, 13, 6)
_UNKNOWN = 1e7


def flow_to_rgb(flow: np.ndarray) -> np.ndarray:
    """Paints flow in the Middlebury colour code: hue is direction, saturation length.

    Lengths are relative to the longest of the picture. What is unknown, a component
    beyond 1e7 or no number, is black.

    Args:
      flow: float `[h,w,2]` of (x, y), any unit.

    Returns:
      uint8 `[h,w,3]`.
    """
    flow = np.asarray(flow, np.float32)
    unknown = ~(np.abs(flow) <= _UNKNOWN).all(axis=-1)
    flow = np.where(unknown[..., None], np.float32(0), flow)
    flow = flow / (np.float64(_length(flow).max()) + np.finfo(float).eps)
    length = _length(flow)[..., None]
    wheel = _colour_wheel()
    turn = (np.arctan2(-flow[..., 1], -flow[..., 0]) / np.pi + 1) / 2
    turn = turn * (len(wheel) - 1)
    before = np.floor(turn).astype(int)
    share = (turn - before)[..., None]
    after = wheel[(before + 1) % len(wheel)]
    colour = (1 - share) * wheel[before] + share * after
    # The longest vector itself may be longer than 1 by rounding, and is darker then:
    # an accident of the original code that its pictures have.
    colour = np.where(length <= 1, 1 - length * (1 - colour), 0.75 * colour)
    colour[unknown] = 0
    return np.floor(255 * colour).astype(np.uint8)


def _length(flow: np.ndarray) -> np.ndarray:
    return np.sqrt(flow[..., 0] ** 2 + flow[..., 1] ** 2)


def _colour_wheel() -> np.ndarray:
    """float64 `[55,3]` in 0..1: from red around the circle back to red."""
    ramps = []
    for start, end, steps in zip(
        _CORNERS, np.roll(_CORNERS, -1, 0), _STEPS, strict=True
    ):
        level = np.floor(255 * np.arange(steps) / steps)[:, None]
        ramps.append(start * 255 + (end - start) * level)
    return np.concatenate(ramps) / 255


def draw_arrows(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Draws where the warp takes its values from: arrows from source to target.

    Args:
      image: uint8 `[h,w,3]`.
      flow: float `[H,W,2]` of (x, y) in pixels of its own map: a point of the map
        reads flow / 2 away.

    Returns:
      uint8 `[h,w,3]`. Arrows are longer by one factor for the whole picture, so that
      the longest tenth of them spans the distance between two targets.
    """
    height, width = image.shape[:2]
    rows, columns = flow.shape[:2]
    scale = np.array([width / columns, height / rows])
    at = [
        np.arange(min(_ARROW_PIXELS, n) // 2, n, _ARROW_PIXELS) for n in (height, width)
    ]
    y, x = np.stack(np.meshgrid(*at, indexing="ij")).reshape(2, -1)
    step = flow[y * rows // height, x * columns // width] / 2 * scale
    typical = np.quantile(np.hypot(*step.T), 0.9)
    step = step * (_ARROW_PIXELS / max(typical, 1e-6))
    # A few outliers would cross the picture.
    longest = 1.5 * _ARROW_PIXELS
    step *= np.minimum(1, longest / np.maximum(np.hypot(*step.T), 1e-6))[:, None]
    canvas = Image.fromarray((image // 2).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for target_x, target_y, (dx, dy) in zip(x, y, step, strict=True):
        target = np.array([target_x, target_y])
        draw.line([*(target + (dx, dy)), *target], _ARROW)
        # The head: two short lines back from the target.
        back = np.array([dx, dy]) * 0.3
        side = np.array([-back[1], back[0]]) * 0.6
        for end in (target + back + side, target + back - side):
            draw.line([*end, *target], _ARROW)
    return np.array(canvas)


def heat(values: np.ndarray) -> np.ndarray:
    """Paints float `[h,w]` from cold (its 1 %) to hot (its 99 %): uint8 `[h,w,3]`."""
    low, high = np.quantile(values, (0.01, 0.99))
    level = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    at = np.linspace(0, 1, len(_COLD_TO_HOT))
    parts = [
        np.interp(level, at, channel) for channel in zip(*_COLD_TO_HOT, strict=True)
    ]
    return np.stack(parts, axis=-1).round().astype(np.uint8)


def sheet(image: np.ndarray, views: dict[str, dict[str, np.ndarray]]) -> np.ndarray:
    """What the warps of a network do to one image: a row for each of them.

    Args:
      image: uint8 `[h,w,3]`.
      views: {row title: {"before" float `[h',w']`, the coarse map; "flow" float
        `[H,W,2]`; "after" float `[H,W]`, the warped map}}, drawn coarsest first.

    Returns:
      uint8 `[…,3]`, its columns `TILES`: maps are enlarged bilinearly to the image's
      size, both by one colour scale for each row.
    """
    height, width = image.shape[:2]
    font = ImageFont.load_default(max(12, min(height // 20, 24)))
    top = round(font.size * 1.6)
    size = (len(TILES) * (width + _GAP) - _GAP, len(views) * (top + height))
    canvas = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(canvas)
    rows = sorted(views.items(), key=lambda item: item[1]["flow"].size)
    for row, (title, view) in enumerate(rows):
        maps = [_enlarge(view[name], (width, height)) for name in ("before", "after")]
        before, after = np.split(heat(np.concatenate(maps)), 2)
        flow = np.stack(
            [
                _enlarge(part, (width, height))
                for part in np.moveaxis(view["flow"], -1, 0)
            ],
            axis=-1,
        )
        tiles = (before, flow_to_rgb(flow), after, draw_arrows(image, view["flow"]))
        for column, (name, tile) in enumerate(zip(TILES, tiles, strict=True)):
            left, above = column * (width + _GAP), row * (top + height)
            text = f"{title}: {name}"
            draw.text((left, above + top // 2), text, _INK, font, anchor="lm")
            canvas.paste(Image.fromarray(tile), (left, above + top))
    return np.array(canvas)


def _enlarge(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float `[h,w]` -> float32 of (width, height), bilinear."""
    picture = Image.fromarray(np.asarray(values, np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))

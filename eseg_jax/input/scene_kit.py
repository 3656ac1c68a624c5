"""Camera, brushes and pictures that the street scenes are drawn with.

On the screen x and y are in image heights, x from the middle and y from the top. All
pixels come from operations that IEEE 754 rounds exactly: the same on every machine.
"""

import functools
import math
import random
from typing import NamedTuple

import numpy as np


def rgb(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(bytes.fromhex(word)) for word in text.split())


# Chance; colour of the light, of the sky above and at the horizon (and of the haze);
# haze a metre; share of light in the sun's shadows; clouds; own lamps and lit windows.
_WEATHER = {
    "sun": (0.30, "fffaeb", "4682d7", "bed7f0", 0.003, 0.5, 0.5, 0.0),
    "overcast": (0.25, "ccd1db", "969ea8", "d0d3d6", 0.006, 1.0, 1.0, 0.0),
    "dusk": (0.13, "cc9e8c", "3c4878", "f5af73", 0.005, 0.7, 0.6, 0.0),
    "night": (0.10, "4c526b", "090b1a", "262434", 0.004, 1.0, 0.2, 2.0),
    "rain": (0.12, "99a1ad", "6c737d", "a5aaaf", 0.013, 1.0, 1.0, 0.0),
    "fog": (0.10, "d1d6db", "b2b7bc", "ced1d3", 0.030, 1.0, 0.3, 0.0),
}
WHITE, RED, AMBER, GREEN, WINDOW = rgb("fafaf5 e12823 fabe3c 32dc78 dcb464")
_GLOWING = {WHITE, RED, AMBER, GREEN, WINDOW}
# Paints that sprites name; the others come with each use of a sprite.
_NAMES = "glass dark tyre steel roof plate pale amber blue signal clear"
_HEX = "2d3744 1e1e21 18181a 7d8082 5f6264 deded6 e8e2cd fabe3c 1e50b4 d21e1e 000000"
PAINT = dict(zip(_NAMES.split(), rgb(_HEX), strict=True))

# Flat pictures, a shape a phrase, painted in order, in metres from a foot point:
#   box x0 y0 x1 y1 | oval x y rx ry | ring x y rx ry | bars x0 y0 x1 y1 period share
#   quad y0 left0 right0 y1 left1 right1 (a trapezoid from height y0 up to y1)
# A * mirrors the shape. Paint "clear" is labelled but seen through. A side picture
# begins at the head of its vehicle.
_SPRITES = {
    "car front": """box* tyre .6 0 .87 .4; box dark -.6 .14 .6 .4
        quad paint 1 -.92 .92 1.6 -.85 .85; quad glass 1 -.8 .8 1.5 -.74 .74
        box paint -.92 .3 .92 1; box shade -.92 .3 .92 .45
        box plate -.26 .46 .26 .58; box* lamp .58 .62 .84 .84""",
    "car side": """quad paint .95 0 4.4 1.6 .2 4.2; quad glass 1 .25 4.15 1.48 .4 4
        box paint 0 .3 4.4 1; box paint 2.1 1 2.25 1.5; oval tyre .85 .34 .34 .34
        oval steel .85 .34 .16 .16; oval tyre 3.5 .34 .34 .34
        oval steel 3.5 .34 .16 .16""",
    "truck front": """box* tyre .85 0 1.25 .6; box paint -1.25 1 1.25 3.6
        box cab -1.2 .5 1.2 2.9; box glass -1.05 1.6 1.05 2.5
        box dark -.7 .8 .7 1.3; box* lamp .9 .65 1.15 .9""",
    "truck back": """box* tyre .85 0 1.25 .7; box dark -1.25 .4 1.25 1.05
        box paint -1.25 1 1.25 3.6; box* shade .06 1.15 1.15 3.45
        box* steel .5 1.15 .6 3.45; box plate -1.25 1 1.25 1.12
        box* lamp .9 .6 1.2 .85""",
    "truck side": """box paint 0 1 8 3.6; bars shade 2.1 1 8 3.6 1.1 .07
        box cab 0 .5 1.9 2.9; box glass .1 1.7 1.4 2.5; box dark 1.9 .45 2.1 2.9
        box dark 2 .45 8 1; oval tyre 1.1 .5 .5 .5; oval tyre 5.9 .5 .5 .5
        oval tyre 7 .5 .5 .5; oval steel 1.1 .5 .2 .2""",
    "bus front": """box* tyre .9 0 1.27 .5; box paint -1.27 .35 1.27 3.1
        box dark -1.27 .35 1.27 .6; box* glass .03 1.2 1.12 2.45
        box dark -.85 2.55 .85 2.92; box amber -.7 2.63 .6 2.84
        box* lamp .9 .7 1.15 .95""",
    "bus side": """box paint 0 .35 11 3.1; box plate 0 1 11 1.15
        bars glass .3 1.3 10.7 2.45 1.5 .9; oval tyre 2.4 .5 .5 .5
        oval tyre 8.4 .5 .5 .5; oval steel 2.4 .5 .2 .2; oval steel 8.4 .5 .2 .2""",
    "train front": """box roof -1.25 3 1.25 3.5
        box pale -1.25 .12 1.25 3.1; quad glass 1.3 -1.1 1.1 2.7 -.95 .95
        box paint -1.25 .12 1.25 1.35; box dark -1.25 .12 1.25 .35
        box amber -.5 2.78 .5 3; oval lamp 0 .95 .22 .22""",
    "train side": """box pale 0 .12 24 3.1; box roof 0 3.05 24 3.5
        box paint 0 .12 24 1.35; bars glass 0 1.5 24 2.6 2 .9
        bars dark 0 .35 24 2.6 6 .2""",
    "bicycle": """oval clear -.55 .36 .36 .36; oval clear .55 .36 .36 .36
        ring tyre -.55 .36 .36 .36; ring tyre .55 .36 .36 .36
        quad paint .34 -.62 .08 .42 -.62 .08; quad paint .34 -.06 .08 .95 -.3 -.16
        quad paint .34 -.04 .1 .9 .34 .48; box paint -.25 .74 .38 .84
        quad paint .36 .5 .62 1.05 .34 .46; box dark -.4 .92 -.08 1.02
        box dark .28 1 .55 1.1""",
    "motorcycle": """oval* tyre .7 .34 .36 .34; oval* steel .7 .34 .15 .14
        quad dark .3 -.4 .4 .6 -.55 .5; quad paint .55 -.95 .45 .85 -.75 .6
        quad dark .8 -.85 .05 .95 -.8 0; quad paint .8 0 .55 1.02 .1 .5
        quad steel .4 .6 .78 1.2 .4 .52; box steel -.9 .28 -.1 .4
        oval lamp .62 .95 .14 .14""",
    "rider": """quad legs .7 .05 .3 1.08 -.42 .05
        quad legs .3 -.08 .16 .85 .08 .34; box dark -.08 .24 .26 .34
        quad coat .95 -.42 .02 1.58 -.1 .4; quad coat 1.08 .36 .56 1.5 .1 .36
        oval skin .25 1.74 .17 .2; oval hat .23 1.81 .19 .18""",
    "walker": """quad legs 0 -.32 -.12 .9 -.18 .04; quad legs 0 .12 .32 .9 -.04 .18
        quad* coat .8 .17 .31 1.42 .12 .25; quad coat .75 -.19 .19 1.46 -.22 .22
        oval skin 0 1.6 .13 .16; oval hair 0 1.67 .14 .1""",
    "stander": """quad* legs 0 .02 .2 .9 0 .2; quad* coat .8 .17 .28 1.42 .12 .26
        quad coat .6 -.22 .22 1.46 -.22 .22; oval skin 0 1.6 .13 .16
        oval hair 0 1.67 .14 .1; box bag .15 .6 .38 .95""",
    "pole": "box steel -.1 0 .1 6; box dark .05 0 .1 6",
    "lamp": """box steel -.18 0 .18 6; box steel -.1 5.75 1.5 6
        box bulb .8 5.6 1.6 5.85""",
    "lights": """box dark -.36 2.35 .36 3.75; oval low 0 2.62 .2 .2
        oval mid 0 3.05 .2 .2; oval high 0 3.48 .2 .2""",
    "ring": "oval signal 0 2.4 .5 .5; oval plate 0 2.4 .34 .34",
    "triangle": "quad signal 1.9 -.55 .55 2.9 0 0; quad plate 2.05 -.3 .3 2.6 0 0",
    "priority": """quad plate 1.85 0 0 2.4 -.55 .55
        quad plate 2.4 -.55 .55 2.95 0 0; quad amber 2 0 0 2.4 -.4 .4
        quad amber 2.4 -.4 .4 2.8 0 0""",
    "blue": "box blue -.5 1.9 .5 2.9; quad plate 2.1 -.1 .1 2.7 -.05 .05",
    "board": """box plate -.85 1.9 .85 2.9; box blue -.8 1.95 .8 2.85
        box plate -.6 2.3 .5 2.5""",
}


def _parse(sprite: str) -> tuple[list[str], list[tuple[str, list[float]]]]:
    """A sprite as the names of its paints and its shapes, in one order."""
    words = [phrase.split() for phrase in sprite.replace("\n", ";").split(";")]
    return [w[1] for w in words], [(w[0], [float(v) for v in w[2:]]) for w in words]


_SHAPES = {name: _parse(sprite) for name, sprite in _SPRITES.items()}


# -------------------- chance


def own_stream(rng) -> random.Random:
    """For one thing of its own: whether it is drawn must not move what follows."""
    return random.Random(rng.getrandbits(32))


def one(rng, options):
    return options[int(rng.random() * len(options))]


def pick(rng, chances: dict[str, float]) -> str:
    left = rng.random() * sum(chances.values())
    for key, chance in chances.items():
        left -= chance
        if left < 0:
            return key
    return key


def times(factor: float, colour) -> tuple:
    return tuple(factor * c for c in colour)


def fraction(value):
    return value - np.floor(value)


@functools.lru_cache(maxsize=2)
def _noise(unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Smooth noise, about 0..1, and white noise -1..1: float32 [2, 4] image heights.

    A scene takes a random window of them: ten times cheaper than fresh noise. The
    smooth one is a function of the place on the screen, whatever the resolution.
    """
    rng = np.random.RandomState(0)  # NumPy promises not to change this one.
    n = math.ceil(unit)
    smooth = np.full((2 * n, 4 * n), 0.5, np.float32)
    for cells, weight in ((5, 0.8), (13, 0.5), (34, 0.4)):  # Cells an image height.
        lattice = rng.random_sample((2 * cells + 3, 4 * cells + 5)).astype(np.float32)
        place = (np.arange(4 * n) + 0.5) * (cells / unit)
        cell = place.astype(int)
        t = (place - cell).astype(np.float32)
        i, y = cell[: 2 * n], t[: 2 * n, None]
        rows = lattice[i] + (lattice[i + 1] - lattice[i]) * y
        smooth += weight * (rows[:, cell] * (1 - t) + rows[:, cell + 1] * t - 0.5)
    white = rng.random_sample(smooth.shape).astype(np.float32)
    return smooth, white * 2 - 1


# -------------------- camera and brushes


class Plane(NamedTuple):
    """The pixels of an upright plane, and where on it, in metres, they are."""

    box: tuple[slice, slice]
    along: np.ndarray  # [1, m]: x across the street, z along it
    up: np.ndarray  # [n, 1] or [n, m]
    light: np.ndarray  # What remains of a colour, [3, 1, 1 or m],
    veil: np.ndarray  # and the haze that is added to it.


class View:
    """The picture in the making (float32 [3, h, w]), its camera and its weather."""

    def __init__(self, rng, h: int, w: int):
        self.image = np.empty((3, h, w), np.float32)
        self.label = np.empty((h, w), np.uint8)
        self.unit = max(h, w / 2)  # Pixels an image height.
        self.x = ((np.arange(w) + 0.5 - w / 2) / self.unit).astype(np.float32)
        self.y = ((np.arange(h) + 0.5 - h / 2) / self.unit + 0.5).astype(np.float32)
        i = int(rng.random() * self.unit + (self.unit - h) / 2)
        j = int(rng.random() * 2 * self.unit + self.unit - w / 2)
        self.noise, self.grain = (n[i : i + h, j : j + w] for n in _noise(self.unit))
        self.focal, self.height = rng.uniform(1.35, 1.7), rng.uniform(1.25, 1.75)
        self.horizon, self.vanish = rng.uniform(0.4, 0.5), rng.uniform(-0.22, 0.22)
        self.weather = pick(rng, {name: row[0] for name, row in _WEATHER.items()})
        _, *colours, haze, self.sunlit, self.clouds, self.lamps = _WEATHER[self.weather]
        self.ambient, self.top, self.low = (
            np.array(rgb(c)[0], np.float32)[:, None, None] for c in colours
        )
        self.ambient /= 245
        self.haze = haze * rng.uniform(0.6, 1.4)
        self.sun = one(rng, (-1, 1))  # On the left or on the right.

    def box(self, x0, y0, x1, y1) -> tuple[slice, slice]:
        """The pixels whose centres lie in a rectangle of the screen."""
        (h, w), unit = self.label.shape, self.unit
        top = math.ceil((y0 - 0.5) * unit + (h - 1) / 2)
        bottom = math.ceil((y1 - 0.5) * unit + (h - 1) / 2)
        left, right = (math.ceil(x * unit + (w - 1) / 2) for x in (x0, x1))
        rows = slice(min(max(top, 0), h), min(max(bottom, 0), h))
        return rows, slice(min(max(left, 0), w), min(max(right, 0), w))

    def sees(self, x, z) -> bool:
        """Whether something at (x, z) may reach into the picture."""
        return abs(self.vanish + self.focal * x / z) < 0.3 - self.x[0]

    def front(self, x, half, top, z) -> Plane:
        """The plane across the street at (x, z), 2 * half metres wide."""
        scale = self.focal / z
        cx, foot = self.vanish + x * scale, self.horizon + self.height * scale
        box = self.box(cx - half * scale, foot - top * scale, cx + half * scale, foot)
        along = (self.x[None, box[1]] - self.vanish) * (1.0 / scale)
        up = (foot - self.y[box[0], None]) * (1.0 / scale)
        return Plane(box, along, up, *self.air(z))

    def side(self, x, top, z0, z1) -> Plane:
        """The plane along the street, x metres beside us, from z0 to z1."""
        xs = [self.vanish + x * self.focal / z for z in (z0, z1)]
        low, high = self.height / z0, min((self.height - top) / z for z in (z0, z1))
        ys = [self.horizon + self.focal * slope for slope in (high, low)]
        box = self.box(min(xs), ys[0], max(xs), ys[1])
        z = (self.focal * x) / (self.x[None, box[1]] - self.vanish)
        up = self.height - (self.y[box[0], None] - self.horizon) * (z / self.focal)
        shade = self.sunlit if x * self.sun > 0 else 1.0  # Faces away from the sun.
        return Plane(box, z, up, *self.air(z, shade))

    def air(self, z, shade=1.0):
        """Light on things z metres away, and the haze before them."""
        clear = 1.0 / (1.0 + self.haze * z)
        lit = (shade * clear) * (1.0 + self.lamps / (1.0 + 0.02 * z * z))
        return self.ambient * lit, self.low * (1.0 - clear)

    def pigment(self, *colours) -> np.ndarray:
        """Colours (r, g, b) as [3, n, 1]; lights are as bright by night as by day."""
        pigment = np.array(colours, np.float32).T[:, :, None]
        for i, colour in enumerate(colours):
            if colour in _GLOWING:
                pigment[:, i] /= self.ambient[:, 0]
        return pigment

    def fill(self, box, colour, label, where=True) -> None:
        np.copyto(self.image[:, box[0], box[1]], colour, where=where)
        np.copyto(self.label[box], np.uint8(label), where=where)

    def paint(self, plane: Plane, colour, label, where=True, texture=1.0) -> None:
        """Fills the part `where` of a plane; `texture` [n, m] scales the colour."""
        colour = self.pigment(colour) * plane.light * texture + plane.veil
        self.fill(plane.box, colour, label, where)

    def shadow(self, x, z, half) -> None:
        """Darkens the ground around a foot point."""
        scale = self.focal / z
        cx, cy = self.vanish + x * scale, self.horizon + self.height * scale
        rx, ry = half * scale, 0.4 * self.height * scale / z
        box = self.box(cx - rx, cy - ry, cx + rx, cy + ry)
        where = _mask("oval", self.x[box[1]], self.y[box[0], None], cx, cy, rx, ry)
        ground = self.image[:, box[0], box[1]]
        np.multiply(ground, np.float32(0.55), out=ground, where=where)


def _mask(shape: str, x, y, a, b, c, d, *more):
    """Where a shape of a sprite is, given the coordinates of the pixels."""
    if shape == "box":
        return (y >= b) & (y < d) & ((x >= a) & (x < c))
    if shape == "bars":
        period, share = more
        return _mask("box", x, y, a, b, c, d) & (fraction((x - a) / period) < share)
    if shape == "quad":
        t = (y - a) * (1.0 / (d - a))
        left, right = b + (more[0] - b) * t, c + (more[1] - c) * t
        return (t >= 0) & (t < 1) & (x >= left) & (x < right)
    dx, dy = (x - a) / c, (y - b) / d
    far = dx * dx + dy * dy
    return (far < 1) & (far > 0.5) if shape == "ring" else far < 1


def stamp(view: View, plane: Plane, sprite, label, foot, wide, tall, **paints):
    """Paints a sprite on a plane, its foot point at `foot` along it."""
    x, y = (plane.along - foot) / wide, plane.up / tall
    ink = np.zeros(view.label[plane.box].shape, np.uint8)
    if ink.size == 0:
        return
    names, shapes = _SHAPES[sprite]
    for number, (shape, numbers) in enumerate(shapes, 1):
        side = np.abs(x) if shape[-1] == "*" else x
        np.copyto(ink, number, where=_mask(shape.rstrip("*"), side, y, *numbers))
    if "paint" in paints:
        paints["shade"] = times(0.7, paints["paint"])
    colours = [paints.get(name) or PAINT[name] for name in names]
    table = view.pigment((0, 0, 0), *colours)
    image = table[:, :, 0].take(ink, axis=1) * plane.light + plane.veil
    np.copyto(view.label[plane.box], np.uint8(label), where=ink > 0)
    seen = ink > names.count("clear")  # The clear shapes come first.
    np.copyto(view.image[:, plane.box[0], plane.box[1]], image, where=seen)


def stand(view, sprite, label, x, z, half, top, wide=1.0, tall=1.0, **paints):
    """Stamps a sprite that faces the camera at (x, z)."""
    half = half * abs(wide)
    plane = view.front(x, half, top * tall, z)
    stamp(view, plane, sprite, label, x, wide, tall, **paints)

"""Built-in street scenes: the 19 Cityscapes classes drawn with numpy, no data needed.

A scene is laid out in metres (x right of the camera, y above the ground, z ahead), seen
by a pinhole camera and painted from back to front. On the screen x and y are in image
heights, x from the middle and y from the top, so another size shows the same scene at
another resolution; an image that is not 2:1 shows as much of the middle as fits.

The same on every machine: chance comes from `random.Random.random`, which Python
promises to keep, and pixels from operations that IEEE 754 rounds exactly (no exp).
"""

import functools
import math
import random
from typing import NamedTuple

import numpy as np

ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN = range(8)
VEGETATION, TERRAIN, SKY, PERSON, RIDER, CAR = range(8, 14)
TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = range(14, 19)
IGNORE = 255

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
# What stands beyond the sidewalk, by part of the town.
_DISTRICTS = (
    {"building": 0.8, "wall": 0.1, "fence": 0.04, "hedge": 0.03, "open": 0.03},
    {"building": 0.3, "wall": 0.25, "fence": 0.25, "hedge": 0.15, "open": 0.05},
    {"building": 0.1, "wall": 0.2, "fence": 0.25, "hedge": 0.2, "open": 0.25},
)
# What lies between the road and that, outwards: (class, least and most metres), ...
_PAVED, _GARDEN = ((SIDEWALK, 2.4, 4.5),), ((SIDEWALK, 1.8, 3.0), (TERRAIN, 1.5, 4.0))
_LAWN, _MEADOW = ((TERRAIN, 1.2, 2.5), (SIDEWALK, 1.8, 3.0)), ((TERRAIN, 3.0, 7.0),)
_VERGES = (_PAVED, _PAVED, _PAVED, _GARDEN, _LAWN, _MEADOW)
_MOVING = {"car": 0.5, "truck": 0.13, "bus": 0.13, "motorcycle": 0.12, "bicycle": 0.12}
_PARKED = {"car": 0.7, "motorcycle": 0.15, "bicycle": 0.15}


def _rgb(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(bytes.fromhex(word)) for word in text.split())


_PLASTER = _rgb("cdbea0 beb4aa aa6e55 965546 d7cdbe b4a578 8c8c91 c8aa96 a0afb4 786a5f")
_CONCRETE = _rgb("a5a096 8c8a87 a06450 beb4a0")
_FENCES = _rgb("323432 825f3c b9b9b4 3c5a41")
_LEAVES = _rgb("3e5c28 4e692d 2d4e2a 697030 82642d")
_GRASS = _rgb("5f7d3c 78824b 877855 507337")
_CLOTHES = _rgb("323746 96282d 285096 c8c8c3 5a5f3c e1b43c 6e3c6e 1e1e20 d27850 3c8282")
_TROUSERS = _rgb("282d46 1e1e20 5a554b 46506e 786955")
_SKIN, _HAIR = _rgb("e1b496 be8c6e 825a41 5a3c2d"), _rgb("1e1e21 5a3c23 bea064")
_CARS = _rgb("e1e1e1 aaacb2 232428 46484e 283c78 a01e23 19503c c8b48c 6e82a0 d7aa1e")
_CARGO = _rgb("e6e6e6 4664a0 b43c32 969b96 3c6e50")
_BUSES = _rgb("ebbe28 c82828 e6e6e1 3c8250")
_TRAMS = _rgb("be1e28 1e6e46 2850a0 ebc832")
_WHITE, _RED, _AMBER, _GREEN, _WINDOW = _rgb("fafaf5 e12823 fabe3c 32dc78 dcb464")
_GLOWING = {_WHITE, _RED, _AMBER, _GREEN, _WINDOW}
# Paints that sprites name; the others come with each use of a sprite.
_NAMES = "glass dark tyre steel roof plate pale amber blue signal clear"
_HEX = "2d3744 1e1e21 18181a 7d8082 5f6264 deded6 e8e2cd fabe3c 1e50b4 d21e1e 000000"
_PAINT = dict(zip(_NAMES.split(), _rgb(_HEX), strict=True))

# Kind of vehicle: class, half its width, length, height, what it is painted with.
_VEHICLES = {
    "car": (CAR, 0.92, 4.4, 1.6, _CARS),
    "truck": (TRUCK, 1.25, 8.0, 3.6, _CARGO),
    "bus": (BUS, 1.27, 11.0, 3.1, _BUSES),
    "train": (TRAIN, 1.25, 24.0, 3.5, _TRAMS),
    "bicycle": (BICYCLE, 0.95, 1.9, 2.0, _CLOTHES),
    "motorcycle": (MOTORCYCLE, 1.1, 2.2, 2.0, _CARS),
}
# Flat pictures, a shape a phrase, painted in order, in metres from a foot point:
#   box x0 y0 x1 y1 | oval x y rx ry | ring x y rx ry | bars x0 y0 x1 y1 period share
#   quad y0 left0 right0 y1 left1 right1 (a trapezoid from height y0 up to y1)
# A * mirrors the shape. Paint "clear" is labelled but seen through. A side picture
# begins at the head of its vehicle.
_SPRITES = {
    "car front": """box* tyre .6 0 .87 .4; box dark -.6 .14 .6 .4
        quad paint 1 -.92 .92 1.6 -.72 .72; quad glass 1 -.82 .82 1.5 -.7 .7
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
    "train front": """quad roof 3 -1.25 1.25 3.5 -1.1 1.1
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
    "lamp": "box steel -.13 0 .13 6; box steel -.1 5.85 1.5 6; box bulb .9 5.7 1.6 5.9",
    "lights": """box dark -.3 2.4 .3 3.65; oval low 0 2.65 .18 .18
        oval mid 0 3.02 .18 .18; oval high 0 3.4 .18 .18""",
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


def draw(
    seed: int, index: int, size: tuple[int, int] = (128, 256)
) -> tuple[np.ndarray, np.ndarray]:
    """Draws street scene number `index` of the endless series `seed`.

    Args:
      seed: which series.
      index: which scene of it.
      size: (height, width) in pixels, each at least 32.

    Returns:
      Image uint8 [h, w, 3] RGB and label uint8 [h, w]: Cityscapes train ids 0..18, and
      255 (ignore) on the own bonnet and the image border where there are any.

    Raises:
      ValueError: the size is too small to show a street.
    """
    if min(size) < 32:
        raise ValueError(
            f"scenes.draw: size {tuple(size)} is too small to show a street; "
            "give a height and a width of at least 32 pixels."
        )
    rng = random.Random(f"{int(seed)}/{int(index)}")
    view = _View(rng, *size)
    verges, lanes, district = _street(rng)
    _sky(view, rng)
    _skyline(view, rng)
    _ground(view, rng, verges, lanes)
    for verge in verges:
        _roadside(view, rng, verge, district)
    if view.weather == "rain":
        _reflections(view)
    things = [*_traffic(rng, verges, lanes), *_furniture(rng, verges)]
    things += _people(rng, verges)
    for z, x, paint in sorted(things, key=lambda thing: -thing[0]):
        stream = _stream(rng)
        if view.sees(x, z + 5.0):
            paint(view, stream, x, z)
    _frame(view, rng)
    return _develop(view, rng), view.label


def _stream(rng) -> random.Random:
    """For one thing of its own: whether it is drawn must not move what follows."""
    return random.Random(rng.getrandbits(32))


def _one(rng, options):
    return options[int(rng.random() * len(options))]


def _pick(rng, chances: dict[str, float]) -> str:
    left = rng.random() * sum(chances.values())
    for key, chance in chances.items():
        left -= chance
        if left < 0:
            return key
    return key


def _times(factor: float, colour) -> tuple:
    return tuple(factor * c for c in colour)


def _fraction(value):
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


class _Plane(NamedTuple):
    """The pixels of an upright plane, and where on it, in metres, they are."""

    box: tuple[slice, slice]
    along: np.ndarray  # [1, m]: x across the street, z along it
    up: np.ndarray  # [n, 1] or [n, m]
    light: np.ndarray  # What remains of a colour, [3, 1, 1 or m],
    veil: np.ndarray  # and the haze that is added to it.


class _View:
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
        self.weather = _pick(rng, {name: row[0] for name, row in _WEATHER.items()})
        _, *colours, haze, self.sunlit, self.clouds, self.lamps = _WEATHER[self.weather]
        self.ambient, self.top, self.low = (
            np.array(_rgb(c)[0], np.float32)[:, None, None] for c in colours
        )
        self.ambient /= 245
        self.haze = haze * rng.uniform(0.6, 1.4)
        self.sun = _one(rng, (-1, 1))  # On the left or on the right.

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

    def front(self, x, half, top, z) -> _Plane:
        """The plane across the street at (x, z), 2 * half metres wide."""
        scale = self.focal / z
        cx, foot = self.vanish + x * scale, self.horizon + self.height * scale
        box = self.box(cx - half * scale, foot - top * scale, cx + half * scale, foot)
        along = (self.x[None, box[1]] - self.vanish) * (1.0 / scale)
        up = (foot - self.y[box[0], None]) * (1.0 / scale)
        return _Plane(box, along, up, *self.air(z))

    def side(self, x, top, z0, z1) -> _Plane:
        """The plane along the street, x metres beside us, from z0 to z1."""
        xs = [self.vanish + x * self.focal / z for z in (z0, z1)]
        low, high = self.height / z0, min((self.height - top) / z for z in (z0, z1))
        ys = [self.horizon + self.focal * slope for slope in (high, low)]
        box = self.box(min(xs), ys[0], max(xs), ys[1])
        z = (self.focal * x) / (self.x[None, box[1]] - self.vanish)
        up = self.height - (self.y[box[0], None] - self.horizon) * (z / self.focal)
        shade = self.sunlit if x * self.sun > 0 else 1.0  # Faces away from the sun.
        return _Plane(box, z, up, *self.air(z, shade))

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

    def paint(self, plane: _Plane, colour, label, where=True, texture=1.0) -> None:
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
        return _mask("box", x, y, a, b, c, d) & (_fraction((x - a) / period) < share)
    if shape == "quad":
        t = (y - a) * (1.0 / (d - a))
        left, right = b + (more[0] - b) * t, c + (more[1] - c) * t
        return (t >= 0) & (t < 1) & (x >= left) & (x < right)
    dx, dy = (x - a) / c, (y - b) / d
    far = dx * dx + dy * dy
    return (far < 1) & (far > 0.5) if shape == "ring" else far < 1


def _stamp(view: _View, plane: _Plane, sprite, label, foot, wide, tall, **paints):
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
        paints["shade"] = _times(0.7, paints["paint"])
    colours = [paints.get(name) or _PAINT[name] for name in names]
    table = view.pigment((0, 0, 0), *colours)
    image = table[:, :, 0].take(ink, axis=1) * plane.light + plane.veil
    np.copyto(view.label[plane.box], np.uint8(label), where=ink > 0)
    seen = ink > names.count("clear")  # The clear shapes come first.
    np.copyto(view.image[:, plane.box[0], plane.box[1]], image, where=seen)


def _stand(view, sprite, label, x, z, half, top, wide=1.0, tall=1.0, **paints):
    """Stamps a sprite that faces the camera at (x, z)."""
    half = half * abs(wide)
    plane = view.front(x, half, top * tall, z)
    _stamp(view, plane, sprite, label, x, wide, tall, **paints)


class _Verge(NamedTuple):
    """One side of the street; places are distances from the middle of the own lane."""

    side: int  # -1 left, 1 right
    edge: float  # Where the road ends.
    strips: tuple[tuple[int, float], ...]  # (class, where it ends), outwards.
    parking: bool

    def back(self) -> float:
        return self.strips[-1][1]


def _street(rng) -> tuple[list, list, dict]:
    """Verges, lanes and district."""
    broad = rng.random() < 0.3  # A second lane on the right.
    # Lanes: where the middle is, whether oncoming, whether a tram runs there.
    lanes = [(0.0, False, False), (-3.3, True, rng.random() < 0.33)]
    lanes += [(3.1, False, False)] * broad
    verges = []
    for side, edge in ((-1, 4.9), (1, 4.7 if broad else 1.7)):
        parking = rng.random() < 0.5
        end = edge = edge + 2.2 * parking + rng.uniform(0.0, 0.6)
        strips = []
        for label, low, high in _one(rng, _VERGES):
            end += rng.uniform(low, high)
            strips.append((label, end))
        verges.append(_Verge(side, edge, tuple(strips), parking))
    return verges, lanes, _one(rng, _DISTRICTS)


def _sky(view: _View, rng) -> None:
    box = view.box(-9.0, -9.0, 9.0, view.horizon + 0.03)
    fall = np.clip(view.y[box[0], None] / view.horizon, 0, 1)
    sky = view.top + (view.low - view.top) * (fall * fall)
    cloud = (view.noise[box] - rng.uniform(0.4, 0.75)) * (2.5 * view.clouds)
    white = view.low * 0.4 + view.ambient * 150
    view.fill(box, sky + (white - sky) * np.clip(cloud, 0, 0.8), SKY)


def _skyline(view: _View, rng) -> None:
    """Houses and trees at the far end of the street."""
    tops = np.array([rng.uniform(0.03, 0.1) for _ in range(40)], np.float32)
    green = np.array([rng.random() < 0.5 for _ in range(40)])
    box = view.box(-9.0, view.horizon - 0.16, 9.0, view.horizon + 0.03)
    block = ((view.x[box[1]] + 2.5) * 8).astype(int) % 40
    trees = green[block]
    top = tops[block] + np.float32(0.08) * trees * view.noise[0, box[1]]
    where = view.y[box[0], None] > view.horizon - top
    light, veil = view.air(70.0, 0.8)
    light = light * (0.75 + 0.5 * view.noise[box])
    far = ((BUILDING, _PLASTER, ~trees), (VEGETATION, _LEAVES, trees))
    for label, options, part in far:
        colour = view.pigment(_one(rng, options)) * light + veil
        view.fill(box, colour, label, where & part)


def _ground(view: _View, rng, verges, lanes) -> None:
    box = view.box(-9.0, view.horizon + 0.012, 9.0, 9.0)
    z = (view.focal * view.height) / (view.y[box[0], None] - view.horizon)
    x = (view.x[box[1]] - view.vanish) * (z / view.focal)
    noise, grain = view.noise[box], view.grain[box]

    # What lies where: each strip is laid over all that is further out.
    grey, step, tone = rng.uniform(70, 115), rng.uniform(0, 65), rng.uniform(0, 12)
    colours = {ROAD: (grey, grey, grey + rng.uniform(-4, 8))}
    colours[SIDEWALK] = (grey + step + tone, grey + step, grey + step - 6)
    colours[TERRAIN] = _one(rng, _GRASS)
    strips = [(ROAD, colours[ROAD])]
    strip = np.zeros(x.shape, np.uint8)
    for verge in verges:
        start, out = verge.edge, x * verge.side
        kerb = (SIDEWALK, start + 0.2, _times(1.25, colours[SIDEWALK]))
        rest = ((what, end, colours[what]) for what, end in verge.strips)
        for what, end, colour in (kerb, *rest, (TERRAIN, 0.0, colours[TERRAIN])):
            np.copyto(strip, len(strips), where=out > start)
            strips.append((what, colour))
            start = end
    label = np.array([what for what, _ in strips], np.uint8).take(strip)
    pigment = np.array([colour for _, colour in strips], np.float32).T

    texture = grain + 2.5 * (noise - 0.5)
    texture *= np.where(label == TERRAIN, np.float32(0.3), np.float32(0.09))
    texture += 1
    tiles = (label == SIDEWALK) & ((_fraction(x) < 0.07) | (_fraction(z) < 0.06))
    np.multiply(texture, np.float32(0.8), out=texture, where=tiles)
    if view.sunlit < 1:
        texture *= _shade(view, rng, verges, x, z)
    for middle, _, tram in lanes:
        if tram:
            texture[np.abs(np.abs(x - middle) - 0.72) < 0.07] *= 0.5
    image = pigment.take(strip, axis=1)
    np.copyto(image, 205.0, where=(label == ROAD) & _markings(rng, verges, lanes, x, z))
    light, veil = view.air(z)
    image *= light * texture
    image += veil
    view.fill(box, image, label)


def _shade(view, rng, verges, x, z):
    """The sun's light on the ground, less behind the roofs and below some leaves."""
    reach = verges[view.sun > 0].back() - rng.uniform(1.0, 7.0)
    roofs = np.floor(_fraction(z * rng.uniform(0.08, 0.2)) * 3) * rng.random()
    dark = x * view.sun > reach + roofs
    light = np.where(dark, np.float32(view.sunlit), np.float32(1))
    leaves = view.noise[-x.shape[0] :] - rng.uniform(0.5, 0.9)
    return np.minimum(light, 1 - (1 - view.sunlit) * np.clip(6 * leaves, 0, 0.8))


def _markings(rng, verges, lanes, x, z):
    """Where the road is painted: lines between and beside the lanes, a crossing."""
    dashes = _fraction((z + rng.uniform(0.0, 6.0)) / 6.0) < 0.5
    painted = (np.abs(x + 1.65) < 0.09) & dashes
    if len(lanes) > 2:
        painted |= (np.abs(x - 1.6) < 0.09) & dashes
    for verge in verges:
        line = verge.edge - (2.3 if verge.parking else 0.35)
        painted |= np.abs(x - verge.side * line) < 0.07
    crossing, start = rng.random() < 0.4, rng.uniform(6.0, 14.0)
    if crossing:
        painted |= (z > start) & (z < start + 3.0) & (_fraction(x) < 0.5)
        painted |= (z > start - 1.2) & (z < start - 0.8)
    return painted


def _reflections(view: _View) -> None:
    """Wet paving mirrors what stands beyond it."""
    rows = view.box(-9.0, view.horizon + 0.012, 9.0, 9.0)[0]
    ground = view.image[:, rows]
    mirror = rows.start - (np.arange(ground.shape[1]) * 4) // 5
    blend = ground * 0.68 + view.image[:, np.maximum(mirror, 0)] * 0.32
    np.copyto(ground, blend, where=view.label[rows] <= SIDEWALK)


def _roadside(view: _View, rng, verge: _Verge, district) -> None:
    """Houses, walls, fences, hedges and gaps, from far to near."""
    cuts = [rng.uniform(1.0, 4.0)]
    while cuts[-1] < 60:
        cuts.append(cuts[-1] + rng.uniform(6.0, 15.0))
    kinds = [_pick(rng, district) for _ in cuts[1:]]
    for i in reversed(range(len(kinds))):
        x = verge.side * (verge.back() + rng.uniform(0.0, 0.8))
        corner = i > 0 and kinds[i - 1] != "building"
        stream = _stream(rng)
        if view.sees(x, cuts[i + 1]):
            _plot(view, stream, x, cuts[i], cuts[i + 1], kinds[i], corner)


def _plot(view: _View, rng, x, z0, z1, kind: str, corner: bool) -> None:
    far = x + math.copysign(rng.uniform(2.0, 9.0), x)
    behind = _pick(rng, {"building": 0.35, "tree": 0.4, "sky": 0.25})
    if kind == "building":
        _building(view, rng, x, z0, z1, corner)
    elif behind == "building":
        _building(view, rng, far, z0, z1, corner)
    elif behind == "tree" or kind == "open":
        _tree(view, rng, far, rng.uniform(z0 + 2.0, z1))
    if kind in _BARRIERS:
        _BARRIERS[kind](view, rng, x, z0, z1)


def _building(view: _View, rng, x, z0, z1, corner: bool) -> None:
    """A block: a blank end towards us, with windows if at a corner, and the front."""
    colour, shop, awning = _one(rng, _PLASTER), rng.random() < 0.4, _one(rng, _CLOTHES)
    top, storey = rng.uniform(5.0, 16.0), rng.uniform(2.7, 3.6)
    bay, phase = rng.uniform(1.6, 3.2), rng.random()
    tall, broad = rng.uniform(0.4, 0.62), rng.uniform(0.35, 0.6)
    end = view.front(x + math.copysign(7.0, x), 7.0, top, z0)
    front = view.side(x, top, z0, z1)
    for plane, detailed in ((end, corner), (front, True)):
        wall = (plane.up > 0) & (plane.up < top)
        texture = 0.85 + 0.3 * view.noise[plane.box]
        view.paint(plane, colour, BUILDING, wall, texture)
        view.paint(plane, _times(0.7, colour), BUILDING, wall & (plane.up > top - 0.5))
        if not detailed:
            continue
        floors, bays = plane.up * (1 / storey), plane.along * (1 / bay) + phase
        floor, column = np.floor(floors), np.floor(bays)
        floors, bays = floors - floor, bays - column
        panes = (np.abs(bays - 0.5) < broad / 2) & (np.abs(floors - 0.55) < tall / 2)
        panes &= wall & (plane.up < top - 0.9)
        luck = _fraction(floor * 0.618 + (column * 0.414 + phase))
        view.paint(plane, _PAINT["glass"], BUILDING, panes, 0.7 + 0.9 * luck)
        if view.lamps:
            view.paint(plane, _WINDOW, BUILDING, panes & (luck < 0.35))
        if shop:
            sign = wall & (np.abs(plane.up - 2.85) < 0.35)
            view.paint(plane, awning, BUILDING, sign)


def _wall(view: _View, rng, x, z0, z1) -> None:
    colour, top = _one(rng, _CONCRETE), rng.uniform(1.7, 3.4)
    panel, course = rng.uniform(1.5, 4.0), rng.uniform(0.3, 0.6)
    plane = view.side(x, top, z0, z1)
    wall = (plane.up > 0) & (plane.up < top)
    texture = 0.75 + 0.3 * view.noise[plane.box] + 0.06 * view.grain[plane.box]
    view.paint(plane, colour, WALL, wall, texture)
    joints = _fraction(plane.along / panel) < 0.04
    joints = wall & (joints | (_fraction(plane.up / course) < 0.1))
    view.paint(plane, _times(0.72, colour), WALL, joints)
    view.paint(plane, _times(1.15, colour), WALL, wall & (plane.up > top - 0.18))


def _fence(view: _View, rng, x, z0, z1) -> None:
    """Bars or boards; one sees through them, but all of it is fence."""
    colour, top = _one(rng, _FENCES), rng.uniform(1.2, 2.3)
    gap, thick = rng.uniform(0.3, 0.6), rng.uniform(0.35, 0.75)
    plane = view.side(x, top, z0, z1)
    fence = (plane.up > 0) & (plane.up < top)
    behind = view.image[:, plane.box[0], plane.box[1]]
    view.fill(plane.box, behind * 0.75, FENCE, fence)
    bars = (_fraction(plane.along / gap) < thick) & (plane.up < top - 0.06)
    rails = (np.abs(plane.up - 0.3) < 0.07) | (plane.up > top - 0.12)
    posts = _fraction(plane.along / 2.5) < 0.07
    view.paint(plane, colour, FENCE, fence & (bars | rails | posts))


def _hedge(view: _View, rng, x, z0, z1) -> None:
    top, colour = rng.uniform(1.2, 3.0), _one(rng, _LEAVES)
    plane = view.side(x, top + 0.5, z0, z1)
    noise, grain = view.noise[plane.box], view.grain[plane.box]
    texture = (0.45 + 0.5 / top * plane.up) * (0.4 + noise + 0.25 * grain)
    hedge = (plane.up > 0) & (plane.up < top + noise - 0.5)
    view.paint(plane, colour, VEGETATION, hedge, texture)


_BARRIERS = {"wall": _wall, "fence": _fence, "hedge": _hedge}


def _tree(view: _View, rng, x, z) -> None:
    colour = _one(rng, _LEAVES)
    tall, wide = rng.uniform(4.5, 8.0), rng.uniform(1.6, 2.7)
    view.shadow(x, z, 1.2)
    trunk = view.front(x, 0.2, 0.6 * tall, z)
    view.paint(trunk, (80, 65, 50), VEGETATION)
    plane = view.front(x, wide, tall, z)
    noise, grain = view.noise[plane.box], view.grain[plane.box]
    dx, dy = (plane.along - x) / wide, (plane.up - 0.66 * tall) / (0.34 * tall)
    crown = dx * dx + dy * dy < 0.2 + 1.3 * noise  # Ragged, and lit from above:
    texture = (0.62 + 0.3 * dy) * (0.35 + 1.1 * noise + 0.3 * grain)
    view.paint(plane, colour, VEGETATION, crown, texture)


def _vehicle(view: _View, rng, x, z, kind: str, oncoming: bool) -> None:
    """Four wheels or more: its near end, and the side that we see, if any."""
    label, half, length, top, colours = _VEHICLES[kind]
    paints = {"paint": _one(rng, colours), "cab": _one(rng, _CARS)}
    paints["lamp"] = _WHITE if oncoming else _RED
    wide, tall = rng.uniform(0.95, 1.06), rng.uniform(0.9, 1.1)
    view.shadow(x, z, half * 1.2)
    if abs(x) > half * wide:
        near = x - math.copysign(half * wide, x)
        plane = view.side(near, top * tall, z, z + length)
        head, way = (z, 1.0) if oncoming else (z + length, -1.0)
        _stamp(view, plane, f"{kind} side", label, head, way, tall, **paints)
    end = f"{kind} front" if oncoming or kind != "truck" else "truck back"
    _stand(view, end, label, x, z, half, top, wide, tall, **paints)


def _cycle(view: _View, rng, x, z, kind: str, ridden: bool) -> None:
    """Two wheels, seen from the side at some angle."""
    label, half, _, top, colours = _VEHICLES[kind]
    wide = rng.uniform(0.55, 1.05) * _one(rng, (-1, 1))
    paints = {"paint": _one(rng, colours), "lamp": _WHITE}
    view.shadow(x, z, half)
    _stand(view, kind, label, x, z, half, top, wide, **paints)
    if ridden:
        paints = {"coat": _one(rng, _CLOTHES), "legs": _one(rng, _TROUSERS)}
        paints |= {"skin": _one(rng, _SKIN), "hat": _one(rng, _CARS)}
        _stand(view, "rider", RIDER, x, z, half, top, wide, **paints)


def _painter(kind: str, oncoming=False, ridden=False):
    if kind in ("bicycle", "motorcycle"):
        return functools.partial(_cycle, kind=kind, ridden=ridden)
    return functools.partial(_vehicle, kind=kind, oncoming=oncoming)


def _traffic(rng, verges, lanes) -> list:
    """Moving vehicles in the lanes and parked ones beside them: (z, x, painter)."""
    things = []
    for middle, oncoming, tram in lanes:
        z = rng.uniform(6.0, 13.0) if middle else rng.uniform(8.0, 20.0)
        while z < 40:
            kind = "train" if tram else _pick(rng, _MOVING)
            vehicle = _painter(kind, oncoming, ridden=True)
            things.append((z, middle + rng.uniform(-0.3, 0.3), vehicle))
            z += _VEHICLES[kind][2] + rng.uniform(3.0, 14.0)
            tram = False
    for verge in verges:
        z = rng.uniform(4.0, 12.0)
        while verge.parking and z < 40:
            kind = _pick(rng, _PARKED)
            things.append((z, verge.side * (verge.edge - 1.15), _painter(kind)))
            z += _VEHICLES[kind][2] + rng.uniform(1.2, 9.0)
    return things


def _person(view: _View, rng, x, z) -> None:
    view.shadow(x, z, 0.5)
    paints = {"coat": _one(rng, _CLOTHES), "legs": _one(rng, _TROUSERS)}
    paints |= {"skin": _one(rng, _SKIN), "hair": _one(rng, _HAIR)}
    paints["bag"] = _one(rng, _CLOTHES)
    wide, tall = rng.uniform(0.95, 1.25) * _one(rng, (-1, 1)), rng.uniform(0.88, 1.08)
    sprite = _one(rng, ("walker", "stander"))
    _stand(view, sprite, PERSON, x, z, 0.4, 1.8, wide, tall, **paints)


def _in_sight(rng, x: float, near: float, far: float) -> float:
    """A depth from near to far; what stands far beside us is seen further ahead."""
    near = max(near, 1.3 * x)
    return rng.uniform(near, max(far, near + 4.0))


def _people(rng, verges) -> list:
    things = []
    for _ in range(2 + int(rng.random() * 6)):
        verge = _one(rng, verges)
        x = rng.uniform(verge.edge + 0.5, verge.back() - 0.3)
        things.append((_in_sight(rng, x, 5.0, 20.0), verge.side * x, _person))
    for kind, ridden in (("bicycle", True), ("motorcycle", True), ("bicycle", False)):
        verge = _one(rng, verges)
        x = verge.edge + rng.uniform(-1.0, 1.2)
        z = _in_sight(rng, x, 5.0, 14.0)
        if rng.random() < 0.3:
            things.append((z, verge.side * x, _painter(kind, ridden=ridden)))
    if rng.random() < 0.3:  # Crosses the road.
        things.append((rng.uniform(8.0, 16.0), rng.uniform(-4.0, 3.0), _person))
    return things


def _pole(view: _View, x, z, width: float, top: float) -> None:
    wide = max(width, 0.02 * z / view.focal) / 0.2  # Far ones can still be seen.
    _stand(view, "pole", POLE, x, z, 0.1, 6.0, wide, top / 6.0)


def _lamp_post(view: _View, rng, x, z) -> None:
    bulb, wide = _WINDOW if view.lamps else (225, 225, 215), -1.0 if x > 0 else 1.0
    _stand(view, "lamp", POLE, x, z, 1.7, 6.1, wide, rng.uniform(0.8, 1.15), bulb=bulb)


def _traffic_light(view: _View, rng, x, z) -> None:
    tall, lit = rng.uniform(0.95, 1.15), _one(rng, ("high", "mid", "low"))
    colours = {"high": _RED, "mid": _AMBER, "low": _GREEN}
    paints = {k: c if k == lit else (62, 58, 54) for k, c in colours.items()}
    _pole(view, x, z, 0.22, 2.5 * tall)
    _stand(view, "lights", TRAFFIC_LIGHT, x, z, 0.3, 3.7, 1.0, tall, **paints)


def _traffic_sign(view: _View, rng, x, z) -> None:
    sprite = _one(rng, ("ring", "triangle", "priority", "blue", "board"))
    size = rng.uniform(0.85, 1.1)
    _pole(view, x, z, 0.16, 2.5)
    _stand(view, sprite, TRAFFIC_SIGN, x, z, 0.9, 3.0, size, size)


# What stands at the kerb: painter, chance, nearest and farthest metres.
_FURNITURE = (
    *((_lamp_post, 0.6, 7.0, 25.0), (_lamp_post, 0.4, 9.0, 30.0)),
    *((_traffic_light, 0.45, 7.0, 16.0), (_traffic_light, 0.25, 12.0, 22.0)),
    *((_traffic_sign, 0.5, 6.5, 14.0), (_traffic_sign, 0.35, 10.0, 22.0)),
    *((_tree, 0.3, 8.0, 16.0), (_tree, 0.3, 14.0, 28.0), (_tree, 0.3, 25.0, 45.0)),
)


def _furniture(rng, verges) -> list:
    things = []
    for verge in verges:
        for paint, chance, near, far in _FURNITURE:
            x = verge.edge + rng.uniform(0.4, 1.0)
            z = _in_sight(rng, x, near, far)
            if rng.random() < chance:
                things.append((z, verge.side * x, paint))
    return things


def _frame(view: _View, rng) -> None:
    """The own bonnet and a dark border, at times; nobody is asked what they are."""
    if rng.random() < 0.25:
        rise, paint = rng.uniform(0.05, 0.11), _one(rng, _CARS)
        box = view.box(-9.0, 1.0 - rise, 9.0, 9.0)
        x, y = view.x[box[1]], view.y[box[0], None]
        light, _ = view.air(0.0)
        gloss = view.pigment(paint) * light * (1.6 - 6.0 * (y - 1.0 + rise))
        view.fill(box, gloss, IGNORE, y > 1.0 - rise * (1.0 - 0.6 * x * x))
    if rng.random() < 0.1:
        n = math.ceil(rng.uniform(0.01, 0.03) * view.unit)
        h, w = view.label.shape
        for box in np.s_[:n, :], np.s_[h - n :, :], np.s_[:, :n], np.s_[:, w - n :]:
            view.fill(box, 0.0, IGNORE)


def _develop(view: _View, rng) -> np.ndarray:
    """Exposure, colour cast, noise and rounding: to uint8 [h, w, 3]."""
    exposure = rng.uniform(0.8, 1.25)
    cast = np.array([exposure * rng.uniform(0.93, 1.07) for _ in range(3)], np.float32)
    noise = view.grain[::-1] * (rng.uniform(1.0, 5.0) + 1.5 * view.lamps)
    image = np.clip(view.image * cast[:, None, None] + noise, 0, 255).astype(np.uint8)
    return np.stack(list(image), axis=-1)  # Faster than copying a transpose.

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

from eseg_jax.input.scene_kit import (
    AMBER,
    GREEN,
    PAINT,
    RED,
    WHITE,
    WINDOW,
    View,
    fraction,
    one,
    own_stream,
    pick,
    rgb,
    stamp,
    stand,
    times,
)

ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN = range(8)
VEGETATION, TERRAIN, SKY, PERSON, RIDER, CAR = range(8, 14)
TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = range(14, 19)
IGNORE = 255

# What stands beyond the sidewalk, by part of the town.
_DISTRICTS = (
    {"building": 0.6, "wall": 0.16, "fence": 0.16, "hedge": 0.04, "open": 0.04},
    {"building": 0.22, "wall": 0.31, "fence": 0.31, "hedge": 0.12, "open": 0.04},
    {"building": 0.1, "wall": 0.25, "fence": 0.3, "hedge": 0.18, "open": 0.17},
)
# What lies between the road and that, outwards: (class, least and most metres), ...
_PAVED, _GARDEN = ((SIDEWALK, 2.4, 4.5),), ((SIDEWALK, 1.8, 3.0), (TERRAIN, 1.5, 4.0))
_LAWN, _MEADOW = ((TERRAIN, 1.2, 2.5), (SIDEWALK, 1.8, 3.0)), ((TERRAIN, 3.0, 7.0),)
_VERGES = (_PAVED, _PAVED, _PAVED, _GARDEN, _LAWN, _MEADOW)
_MOVING = {"car": 0.4, "truck": 0.12, "bus": 0.12, "motorcycle": 0.2, "bicycle": 0.18}
_PARKED = {"car": 0.64, "motorcycle": 0.18, "bicycle": 0.18}
_AFAR = {"car": 0.7, "truck": 0.15, "bus": 0.15}  # Two-wheelers there are but specks.


_PLASTER = rgb("cdbea0 beb4aa aa6e55 965546 d7cdbe b4a578 8c8c91 c8aa96 a0afb4 786a5f")
_CONCRETE = rgb("a5a096 8c8a87 a06450 beb4a0")
_FENCES = rgb("323432 825f3c b9b9b4 3c5a41")
_LEAVES = rgb("3e5c28 4e692d 2d4e2a 697030 82642d")
_GRASS = rgb("5f7d3c 78824b 877855 507337")
_CLOTHES = rgb("323746 96282d 285096 c8c8c3 5a5f3c e1b43c 6e3c6e 1e1e20 d27850 3c8282")
_TROUSERS = rgb("282d46 1e1e20 5a554b 46506e 786955")
_VESTS = rgb("e6dc28 f07d1e dc3228")
_SKIN, _HAIR = rgb("e1b496 be8c6e 825a41 5a3c2d"), rgb("1e1e21 5a3c23 bea064")
_CARS = rgb("e1e1e1 aaacb2 232428 46484e 283c78 a01e23 19503c c8b48c 6e82a0 d7aa1e")
_CARGO = rgb("e6e6e6 4664a0 b43c32 969b96 3c6e50")
_BUSES = rgb("ebbe28 c82828 e6e6e1 3c8250")
_TRAMS = rgb("be1e28 1e6e46 2850a0 ebc832")
# Kind of vehicle: class, half its width, length, height, what it is painted with.
_VEHICLES = {
    "car": (CAR, 0.92, 4.4, 1.6, _CARS),
    "truck": (TRUCK, 1.25, 8.0, 3.6, _CARGO),
    "bus": (BUS, 1.27, 11.0, 3.1, _BUSES),
    "train": (TRAIN, 1.25, 24.0, 3.5, _TRAMS),
    "bicycle": (BICYCLE, 0.95, 1.9, 2.0, _CLOTHES),
    "motorcycle": (MOTORCYCLE, 1.1, 2.2, 2.0, _CARS),
}


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
    view = View(rng, *size)
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
        stream = own_stream(rng)
        if view.sees(x, z + 5.0):
            paint(view, stream, x, z)
    _frame(view, rng)
    return _develop(view, rng), view.label


# -------------------- the empty street


def draw_abroad(
    seed: int, index: int, size: tuple[int, int] = (128, 256)
) -> tuple[np.ndarray, np.ndarray]:
    """Like `draw`, from another domain: mirrored scenes of a seed of their own.

    Red and blue are exchanged and paler; trains, motorcycles and bicycles, the last
    three classes, are ignored.
    """
    image, label = draw(seed + 1, index, size)
    image = image[:, ::-1, ::-1] // 4 * 3 + 56
    label = np.where(label >= TRAIN, np.uint8(IGNORE), label)[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(label)


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
        for label, low, high in one(rng, _VERGES):
            end += rng.uniform(low, high)
            strips.append((label, end))
        verges.append(_Verge(side, edge, tuple(strips), parking))
    return verges, lanes, one(rng, _DISTRICTS)


def _sky(view: View, rng) -> None:
    box = view.box(-9.0, -9.0, 9.0, view.horizon + 0.03)
    fall = np.clip(view.y[box[0], None] / view.horizon, 0, 1)
    sky = view.top + (view.low - view.top) * (fall * fall)
    cloud = (view.noise[box] - rng.uniform(0.4, 0.75)) * (2.5 * view.clouds)
    white = view.low * 0.4 + view.ambient * 150
    view.fill(box, sky + (white - sky) * np.clip(cloud, 0, 0.8), SKY)


def _skyline(view: View, rng) -> None:
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
        colour = view.pigment(one(rng, options)) * light + veil
        view.fill(box, colour, label, where & part)


def _ground(view: View, rng, verges, lanes) -> None:
    box = view.box(-9.0, view.horizon + 0.012, 9.0, 9.0)
    z = (view.focal * view.height) / (view.y[box[0], None] - view.horizon)
    x = (view.x[box[1]] - view.vanish) * (z / view.focal)
    noise, grain = view.noise[box], view.grain[box]

    # What lies where: each strip is laid over all that is further out.
    grey, step, tone = rng.uniform(70, 115), rng.uniform(0, 65), rng.uniform(0, 12)
    colours = {ROAD: (grey, grey, grey + rng.uniform(-4, 8))}
    colours[SIDEWALK] = (grey + step + tone, grey + step, grey + step - 6)
    colours[TERRAIN] = one(rng, _GRASS)
    strips = [(ROAD, colours[ROAD])]
    strip = np.zeros(x.shape, np.uint8)
    for verge in verges:
        start, out = verge.edge, x * verge.side
        kerb = (SIDEWALK, start + 0.2, times(1.25, colours[SIDEWALK]))
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
    tiles = (label == SIDEWALK) & ((fraction(x) < 0.07) | (fraction(z) < 0.06))
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
    roofs = np.floor(fraction(z * rng.uniform(0.08, 0.2)) * 3) * rng.random()
    dark = x * view.sun > reach + roofs
    light = np.where(dark, np.float32(view.sunlit), np.float32(1))
    leaves = view.noise[-x.shape[0] :] - rng.uniform(0.5, 0.9)
    return np.minimum(light, 1 - (1 - view.sunlit) * np.clip(6 * leaves, 0, 0.8))


def _markings(rng, verges, lanes, x, z):
    """Where the road is painted: lines between and beside the lanes, a crossing."""
    dashes = fraction((z + rng.uniform(0.0, 6.0)) / 6.0) < 0.5
    painted = (np.abs(x + 1.65) < 0.09) & dashes
    if len(lanes) > 2:
        painted |= (np.abs(x - 1.6) < 0.09) & dashes
    for verge in verges:
        line = verge.edge - (2.3 if verge.parking else 0.35)
        painted |= np.abs(x - verge.side * line) < 0.07
    crossing, start = rng.random() < 0.4, rng.uniform(6.0, 14.0)
    if crossing:
        painted |= (z > start) & (z < start + 3.0) & (fraction(x) < 0.5)
        painted |= (z > start - 1.2) & (z < start - 0.8)
    return painted


def _reflections(view: View) -> None:
    """Wet paving mirrors what stands beyond it."""
    rows = view.box(-9.0, view.horizon + 0.012, 9.0, 9.0)[0]
    ground = view.image[:, rows]
    mirror = rows.start - (np.arange(ground.shape[1]) * 4) // 5
    blend = ground * 0.68 + view.image[:, np.maximum(mirror, 0)] * 0.32
    np.copyto(ground, blend, where=view.label[rows] <= SIDEWALK)


# -------------------- beside the street


def _roadside(view: View, rng, verge: _Verge, district) -> None:
    """Houses, walls, fences, hedges and gaps, from far to near."""
    cuts = [rng.uniform(1.0, 4.0)]
    while cuts[-1] < 60:
        cuts.append(cuts[-1] + rng.uniform(8.0, 20.0))
    kinds = [pick(rng, district) for _ in cuts[1:]]
    for i in reversed(range(len(kinds))):
        x = verge.side * (verge.back() + rng.uniform(0.0, 0.8))
        corner = i > 0 and kinds[i - 1] != "building"
        stream = own_stream(rng)
        if view.sees(x, cuts[i + 1]):
            _plot(view, stream, x, cuts[i], cuts[i + 1], kinds[i], corner)


def _plot(view: View, rng, x, z0, z1, kind: str, corner: bool) -> None:
    far = x + math.copysign(rng.uniform(2.0, 9.0), x)
    behind = pick(rng, {"building": 0.35, "tree": 0.4, "sky": 0.25})
    if kind == "building":
        _building(view, rng, x, z0, z1, corner)
    elif behind == "building":
        _building(view, rng, far, z0, z1, corner)
    elif behind == "tree" or kind == "open":
        _tree(view, rng, far, rng.uniform(z0 + 2.0, z1))
    if kind in _BARRIERS:
        _BARRIERS[kind](view, rng, x, z0, z1)


def _building(view: View, rng, x, z0, z1, corner: bool) -> None:
    """A block: a blank end towards us, with windows if at a corner, and the front."""
    colour, shop, awning = one(rng, _PLASTER), rng.random() < 0.4, one(rng, _CLOTHES)
    top, storey = rng.uniform(5.0, 16.0), rng.uniform(2.7, 3.6)
    bay, phase = rng.uniform(1.6, 3.2), rng.random()
    tall, broad = rng.uniform(0.4, 0.62), rng.uniform(0.35, 0.6)
    end = view.front(x + math.copysign(7.0, x), 7.0, top, z0)
    front = view.side(x, top, z0, z1)
    for plane, detailed in ((end, corner), (front, True)):
        wall = (plane.up > 0) & (plane.up < top)
        texture = 0.85 + 0.3 * view.noise[plane.box]
        view.paint(plane, colour, BUILDING, wall, texture)
        view.paint(plane, times(0.7, colour), BUILDING, wall & (plane.up > top - 0.5))
        if not detailed:
            continue
        floors, bays = plane.up * (1 / storey), plane.along * (1 / bay) + phase
        floor, column = np.floor(floors), np.floor(bays)
        floors, bays = floors - floor, bays - column
        panes = (np.abs(bays - 0.5) < broad / 2) & (np.abs(floors - 0.55) < tall / 2)
        panes &= wall & (plane.up < top - 0.9)
        luck = fraction(floor * 0.618 + (column * 0.414 + phase))
        view.paint(plane, PAINT["glass"], BUILDING, panes, 0.7 + 0.9 * luck)
        if view.lamps:
            view.paint(plane, WINDOW, BUILDING, panes & (luck < 0.35))
        if shop:
            sign = wall & (np.abs(plane.up - 2.85) < 0.35)
            view.paint(plane, awning, BUILDING, sign)


def _wall(view: View, rng, x, z0, z1) -> None:
    colour, top = one(rng, _CONCRETE), rng.uniform(2.0, 3.6)
    panel, course = rng.uniform(1.5, 4.0), rng.uniform(0.3, 0.6)
    plane = view.side(x, top, z0, z1)
    wall = (plane.up > 0) & (plane.up < top)
    texture = 0.75 + 0.3 * view.noise[plane.box] + 0.06 * view.grain[plane.box]
    view.paint(plane, colour, WALL, wall, texture)
    joints = fraction(plane.along / panel) < 0.04
    joints = wall & (joints | (fraction(plane.up / course) < 0.1))
    view.paint(plane, times(0.72, colour), WALL, joints)
    view.paint(plane, times(1.15, colour), WALL, wall & (plane.up > top - 0.18))


def _fence(view: View, rng, x, z0, z1) -> None:
    """Bars or boards; one sees through them, but all of it is fence."""
    colour, top = one(rng, _FENCES), rng.uniform(1.5, 2.6)
    gap, thick = rng.uniform(0.4, 0.7), rng.uniform(0.55, 0.8)
    plane = view.side(x, top, z0, z1)
    fence = (plane.up > 0) & (plane.up < top)
    behind = view.image[:, plane.box[0], plane.box[1]]
    view.fill(plane.box, behind * 0.6, FENCE, fence)
    bars = (fraction(plane.along / gap) < thick) & (plane.up < top - 0.06)
    rails = (np.abs(plane.up - 0.3) < 0.07) | (plane.up > top - 0.12)
    posts = fraction(plane.along / 2.5) < 0.07
    view.paint(plane, colour, FENCE, fence & (bars | rails | posts))


def _hedge(view: View, rng, x, z0, z1) -> None:
    top, colour = rng.uniform(1.2, 3.0), one(rng, _LEAVES)
    plane = view.side(x, top + 0.5, z0, z1)
    noise, grain = view.noise[plane.box], view.grain[plane.box]
    texture = (0.45 + 0.5 / top * plane.up) * (0.4 + noise + 0.25 * grain)
    hedge = (plane.up > 0) & (plane.up < top + noise - 0.5)
    view.paint(plane, colour, VEGETATION, hedge, texture)


_BARRIERS = {"wall": _wall, "fence": _fence, "hedge": _hedge}


def _tree(view: View, rng, x, z) -> None:
    colour = one(rng, _LEAVES)
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


# -------------------- in the street


def _vehicle(view: View, rng, x, z, kind: str, oncoming: bool) -> None:
    """Four wheels or more: its near end, and the side that we see, if any."""
    label, half, length, top, colours = _VEHICLES[kind]
    paints = {"paint": one(rng, colours), "cab": one(rng, _CARS)}
    paints["lamp"] = WHITE if oncoming else RED
    wide, tall = rng.uniform(0.95, 1.06), rng.uniform(0.9, 1.1)
    view.shadow(x, z, half * 1.2)
    if abs(x) > half * wide:
        near = x - math.copysign(half * wide, x)
        plane = view.side(near, top * tall, z, z + length)
        head, way = (z, 1.0) if oncoming else (z + length, -1.0)
        stamp(view, plane, f"{kind} side", label, head, way, tall, **paints)
    end = f"{kind} front" if oncoming or kind != "truck" else "truck back"
    stand(view, end, label, x, z, half, top, wide, tall, **paints)


def _cycle(view: View, rng, x, z, kind: str, ridden: bool) -> None:
    """Two wheels, seen from the side at some angle."""
    label, half, _, top, colours = _VEHICLES[kind]
    wide = rng.uniform(0.65, 1.1) * one(rng, (-1, 1))
    paints = {"paint": one(rng, colours), "lamp": WHITE}
    view.shadow(x, z, half)
    stand(view, kind, label, x, z, half, top, wide, **paints)
    if ridden:
        vest = one(rng, _VESTS if rng.random() < 0.6 else _CLOTHES)
        paints = {"coat": vest, "legs": one(rng, _TROUSERS)}
        paints |= {"skin": one(rng, _SKIN), "hat": one(rng, _CARS)}
        stand(view, "rider", RIDER, x, z, half, top, wide, **paints)


def _painter(kind: str, oncoming=False, ridden=False):
    if kind in ("bicycle", "motorcycle"):
        return functools.partial(_cycle, kind=kind, ridden=ridden)
    return functools.partial(_vehicle, kind=kind, oncoming=oncoming)


def _traffic(rng, verges, lanes) -> list:
    """Moving vehicles in the lanes and parked ones beside them: (z, x, painter)."""
    things = []
    for middle, oncoming, tram in lanes:
        z = rng.uniform(6.0, 13.0) if middle else rng.uniform(8.0, 20.0)
        while z < 30:
            kind = "train" if tram else pick(rng, _MOVING if z < 15 else _AFAR)
            vehicle = _painter(kind, oncoming, ridden=True)
            things.append((z, middle + rng.uniform(-0.3, 0.3), vehicle))
            z += _VEHICLES[kind][2] + rng.uniform(3.0, 14.0)
            tram = False
    for verge in verges:
        z = rng.uniform(4.0, 12.0)
        while verge.parking and z < 30:
            kind = pick(rng, _PARKED) if z < 15 else "car"
            things.append((z, verge.side * (verge.edge - 1.15), _painter(kind)))
            z += _VEHICLES[kind][2] + rng.uniform(1.2, 9.0)
    return things


def _person(view: View, rng, x, z) -> None:
    view.shadow(x, z, 0.5)
    paints = {"coat": one(rng, _CLOTHES), "legs": one(rng, _TROUSERS)}
    paints |= {"skin": one(rng, _SKIN), "hair": one(rng, _HAIR)}
    paints["bag"] = one(rng, _CLOTHES)
    wide, tall = rng.uniform(1.05, 1.4) * one(rng, (-1, 1)), rng.uniform(0.92, 1.1)
    sprite = one(rng, ("walker", "stander"))
    stand(view, sprite, PERSON, x, z, 0.4, 1.8, wide, tall, **paints)


def _in_sight(rng, x: float, near: float, far: float) -> float:
    """A depth from near to far; what stands far beside us is seen further ahead."""
    near = max(near, 1.3 * x)
    return rng.uniform(near, max(far, near + 4.0))


def _people(rng, verges) -> list:
    things = []
    for _ in range(2 + int(rng.random() * 6)):
        verge = one(rng, verges)
        x = rng.uniform(verge.edge + 0.5, verge.back() - 0.3)
        things.append((_in_sight(rng, x, 5.0, 13.0), verge.side * x, _person))
    for kind, ridden in (("bicycle", True), ("motorcycle", True), ("bicycle", False)):
        verge = one(rng, verges)
        x = verge.edge + rng.uniform(-1.0, 1.2)
        z = _in_sight(rng, x, 5.0, 10.0)
        if rng.random() < 0.3:
            things.append((z, verge.side * x, _painter(kind, ridden=ridden)))
    if rng.random() < 0.3:  # Crosses the road.
        things.append((rng.uniform(7.0, 12.0), rng.uniform(-4.0, 3.0), _person))
    return things


def _pole(view: View, x, z, width: float, top: float) -> None:
    wide = max(width, 0.03 * z / view.focal) / 0.2  # Far ones can still be seen.
    stand(view, "pole", POLE, x, z, 0.1, 6.0, wide, top / 6.0)


def _lamp_post(view: View, rng, x, z) -> None:
    bulb, wide = WINDOW if view.lamps else (225, 225, 215), -1.0 if x > 0 else 1.0
    stand(view, "lamp", POLE, x, z, 1.7, 6.1, wide, rng.uniform(0.8, 1.15), bulb=bulb)


def _traffic_light(view: View, rng, x, z) -> None:
    tall, lit = rng.uniform(0.95, 1.15), one(rng, ("high", "mid", "low"))
    colours = {"high": RED, "mid": AMBER, "low": GREEN}
    paints = {k: c if k == lit else (62, 58, 54) for k, c in colours.items()}
    _pole(view, x, z, 0.28, 2.5 * tall)
    stand(view, "lights", TRAFFIC_LIGHT, x, z, 0.36, 3.8, 1.0, tall, **paints)


def _traffic_sign(view: View, rng, x, z) -> None:
    sprite = one(rng, ("ring", "triangle", "priority", "blue", "board"))
    size = rng.uniform(0.85, 1.1)
    _pole(view, x, z, 0.25, 2.5)
    stand(view, sprite, TRAFFIC_SIGN, x, z, 0.9, 3.0, size, size)


# What stands at the kerb: painter, chance, nearest and farthest metres.
_FURNITURE = (
    *((_lamp_post, 0.6, 7.0, 18.0), (_lamp_post, 0.4, 9.0, 22.0)),
    *((_traffic_light, 0.5, 6.5, 13.0), (_traffic_light, 0.2, 10.0, 18.0)),
    *((_traffic_sign, 0.5, 6.5, 12.0), (_traffic_sign, 0.3, 9.0, 18.0)),
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


# -------------------- lens and film


def _frame(view: View, rng) -> None:
    """The own bonnet and a dark border, at times; nobody is asked what they are."""
    if rng.random() < 0.25:
        rise, paint = rng.uniform(0.05, 0.11), one(rng, _CARS)
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


def _develop(view: View, rng) -> np.ndarray:
    """Exposure, colour cast, noise and rounding: to uint8 [h, w, 3]."""
    exposure = rng.uniform(0.8, 1.25)
    cast = np.array([exposure * rng.uniform(0.93, 1.07) for _ in range(3)], np.float32)
    noise = view.grain[::-1] * (rng.uniform(1.0, 5.0) + 1.5 * view.lamps)
    image = np.clip(view.image * cast[:, None, None] + noise, 0, 255).astype(np.uint8)
    return np.stack(list(image), axis=-1)  # Faster than copying a transpose.

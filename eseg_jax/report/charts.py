"""Charts as inline SVG, coloured by the page's style sheet (light and dark)."""

import math
from html import escape

import numpy as np

_POINTS = 400  # a curve is thinned to this many points
_PRINTED_CLASSES = 24  # larger confusion matrices show no numbers in their cells


def number(value: float) -> str:
    """Three significant digits, as a tick shows them: 0.08, 12.3, 1,250, 12.5k."""
    if value == 0:
        return "0"
    for limit, suffix in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            value /= 1e3 if suffix == "k" else 1e6
            return f"{value:.3g}{suffix}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}".replace("e-0", "e-")


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` numbers, 1, 2, 2.5 or 5 × 10^k apart, that enclose the range."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    width = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power * count >= span)
    first = math.floor(low / width + 1e-9)
    last = max(math.ceil(high / width - 1e-9), first + 1)
    return [float(f"{i * width:.12g}") for i in range(first, last + 1)]


def smooth(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Centred means over a fortieth of the points: no lag, unlike a running mean."""
    half = len(points) // 80
    sums = np.cumsum([0.0, *(y for _, y in points)])
    out = []
    for i, (x, _) in enumerate(points):
        first, end = max(i - half, 0), min(i + half + 1, len(points))
        out.append((x, float(sums[end] - sums[first]) / (end - first)))
    return out


def _thinned(points: list) -> list[tuple[float, float]]:
    """Means over equal runs of points, so that spikes still weigh."""
    if len(points) <= _POINTS:
        return points
    return [tuple(p.mean(axis=0)) for p in np.array_split(np.array(points), _POINTS)]


def lines(
    title: str,
    series: dict[str, list[tuple[float, float]]],
    *,
    end: float,
    faint: list[tuple[float, float]] = (),
    dots: bool = False,
    small: bool = False,
) -> str:
    """A line chart over steps.

    Args:
      title: with the unit of y.
      series: name -> (step, value) points; the names are shown when there are several.
      end: the last step of the x axis.
      faint: points drawn weakly behind, e.g. before smoothing.
      dots: mark every point (with a tooltip) and ring the highest of the first series.
      small: a third of the page wide instead of half.

    Returns:
      an HTML `<figure>`.
    """
    series = {name: _thinned(points) for name, points in series.items() if points}
    faint = _thinned(list(faint))
    width, height = (340, 170) if small else (530, 236)
    left, right, top, bottom = 46, 12, 10, 26
    values = [y for points in (*series.values(), faint) for _, y in points]
    now = f"<b>{number(next(iter(series.values()))[-1][1])}</b>" if series else ""
    head = f"<figcaption><span>{escape(title)}</span>{now}</figcaption>"
    if not values:
        return f'<figure class="chart">{head}<p class="note">no data yet</p></figure>'

    y_ticks = ticks(min(0.0, *values), max(0.0, *values), 3 if small else 5)
    x_ticks = [t for t in ticks(0, end, 4 if small else 6) if t <= end * 1.001]
    y0, y1 = y_ticks[0], y_ticks[-1]

    def at(x, y):
        px = left + (width - left - right) * x / (end or 1)
        return px, top + (height - top - bottom) * (y1 - y) / (y1 - y0)

    parts = []
    for tick in y_ticks:
        y = at(0, tick)[1]
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{width - right}"/>')
        parts.append(_text(left - 8, y + 3.5, number(tick), "end"))
    for tick in x_ticks:
        x = at(tick, y0)[0]
        parts.append(f'<path class="tick" d="M{x:.1f} {height - bottom}v4"/>')
        parts.append(_text(x, height - bottom + 17, number(tick), "middle"))
    parts.append(_text(left - 8, height - bottom + 17, "step", "end"))
    if faint:
        parts.append(f'<path class="faint" d="{_path(faint, at)}"/>')
    for i, (name, points) in enumerate(series.items()):
        parts.append(f'<path class="line s{i % 4}" d="{_path(points, at)}"/>')
        for x, y in points if dots else ():
            px, py = at(x, y)
            tip = escape(f"{name}, step {x:,.0f}: {y:.2f}")
            parts.append(
                f'<circle class="dot s{i % 4}" cx="{px:.1f}" cy="{py:.1f}" r="2.6">'
                f"<title>{tip}</title></circle>"
            )
    if dots:
        best = max(next(iter(series.values())), key=lambda p: p[1])
        x, y = at(*best)
        parts.append(f'<circle class="best" cx="{x:.1f}" cy="{y:.1f}" r="6"/>')
    if len(series) > 1:
        names = "".join(
            f'<span class="s{i % 4}">{escape(name)}</span>'
            for i, name in enumerate(series)
        )
        head = f'{head}<p class="keys">{names}</p>'
    return (
        f'<figure class="chart">{head}<svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)} over steps">{"".join(parts)}</svg></figure>'
    )


def scatter(x_title: str, y_title: str, points: dict[str, tuple[float, float]]) -> str:
    """Fractions of two runs against each other, in percent, with the diagonal.

    Args:
      x_title, y_title: with the unit.
      points: name, shown as a tooltip, -> (x, y), each in 0..1.

    Returns:
      an HTML `<figure>`.
    """
    size, left, top = 420, 46, 10
    width = size - left - top - 30
    values = [100 * value for pair in points.values() for value in pair]
    marks = ticks(min(values), max(values))
    low, high = marks[0], marks[-1]

    def at(x, y):
        share = [(100 * value - low) / (high - low) for value in (x, y)]
        return left + width * share[0], top + width * (1 - share[1])

    parts = []
    for mark in marks:
        x, y = at(mark / 100, mark / 100)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}h{width}"/>')
        parts.append(f'<path class="grid" d="M{x:.1f} {top}v{width}"/>')
        parts.append(_text(left - 8, y + 3.5, number(mark), "end"))
        parts.append(_text(x, top + width + 17, number(mark), "middle"))
    parts.append(
        f'<path class="diagonal" d="M{left} {top + width}L{left + width} {top}"/>'
    )
    for name, (x, y) in points.items():
        px, py = at(x, y)
        tip = escape(f"{name}: {100 * x:.1f} and {100 * y:.1f}")
        parts.append(
            f'<circle class="dot s{int(y > x)}" cx="{px:.1f}" cy="{py:.1f}" r="3" '
            f'fill-opacity=".65"><title>{tip}</title></circle>'
        )
    parts.append(_text(left + width, top + width + 33, x_title, "end"))
    parts.append(_text(left + 6, top + 14, y_title, "start"))
    return (
        f'<figure class="chart"><svg viewBox="0 0 {size} {size}" role="img" '
        f'aria-label="{escape(y_title)} over {escape(x_title)}">{"".join(parts)}</svg>'
        "</figure>"
    )


def _path(points, at) -> str:
    return "M" + "L".join("{:.1f} {:.1f}".format(*at(x, y)) for x, y in points) + "h0"


def _text(x: float, y: float, text: str, anchor: str, extra: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>'
        f"{escape(text)}</text>"
    )


def confusion(matrix: np.ndarray, names: list[str]) -> str:
    """A row-normalised heat map; the diagonal in another colour than the errors.

    Args:
      matrix: int64 `[c, c]` counts, rows are the truth.
      names: c class names.

    Returns:
      an SVG; cells below 0.05 % of their row are left blank.
    """
    count = len(names)
    printed = count <= _PRINTED_CLASSES
    longest = min(max(len(name) for name in names), 22)
    # Small matrices leave room for the list beside them, large ones fill the page.
    cell = min((690 if printed else 1020) / count, 46)
    font = min(cell * 0.95, 11.5)
    margin = longest * font * 0.56 + 10
    size = count * cell
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    parts = [
        f'<rect class="frame" x="{margin:.1f}" y="{margin:.1f}" width="{size:.1f}" '
        f'height="{size:.1f}"/>'
    ]
    for i, name in enumerate(names):
        middle = margin + (i + 0.5) * cell
        short = name if len(name) <= 22 else name[:21] + "…"
        parts.append(_text(margin - 6, middle + font * 0.34, short, "end"))
        turn = f' transform="rotate(-90 {middle + font * 0.34:.1f} {margin - 6:.1f})"'
        parts.append(_text(middle + font * 0.34, margin - 6, short, "start", turn))
    for t, p in np.argwhere(share >= 0.0005).tolist():
        value = share[t, p]
        x, y = margin + p * cell, margin + t * cell
        kind = "right" if t == p else "wrong"
        # A root makes small confusions visible beside large ones.
        parts.append(
            f'<g><rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{cell:.1f}" '
            f'height="{cell:.1f}" fill-opacity="{math.sqrt(value):.3f}"/>'
            f"<title>{escape(names[t])} as {escape(names[p])}: {100 * value:.2f} % "
            f"({int(matrix[t, p]):,} pixels)</title>"
        )
        if printed and value >= 0.005:
            ink = ' class="on"' if value > 0.45 else ""
            label = f"{100 * value:.0f}" if value >= 0.0095 else "<1"
            parts.append(_text(x + cell / 2, y + cell / 2 + 3.5, label, "middle", ink))
        parts.append("</g>")
    full = margin + size + 2
    return (
        f'<svg class="matrix" viewBox="0 0 {full:.0f} {full:.0f}" width="{full:.0f}" '
        f'height="{full:.0f}" style="font-size:{font:.1f}px" role="img" '
        f'aria-label="confusion matrix">{"".join(parts)}</svg>'
    )

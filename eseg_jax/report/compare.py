"""One page about two runs side by side; of a piece with `page.py`."""

import dataclasses
import math
import re
from html import escape

import numpy as np

from eseg_jax.report import charts, html, style
from eseg_jax.report.files import file_name
from eseg_jax.report.page import series_name, train_points

_BOUNDARY = re.compile(r"boundary_f_[\d.e-]+")
_LISTED = 8  # images in each list, and pictures
_ONE_RIGHT = {"A": (43, 108, 176), "B": (194, 87, 26)}  # the colours of their curves
_BOTH_WRONG = (60, 60, 66)


@dataclasses.dataclass(frozen=True)
class Side:
    """A run, or one evaluation of it.

    name: what the user called it.
    config: JSON-able. records: lines of metrics.jsonl.
    evaluation: the record compared: miou, iou {class: …}, step, split, ….
    scores: id -> (mIoU, pixel accuracy) of each image; {} where unknown.
    pictures: name -> the tiles of a panel by title, uint8 `[h, w, 3]`.
    """

    name: str
    config: dict
    records: list[dict]
    evaluation: dict
    scores: dict[str, tuple]
    pictures: dict[str, dict[str, np.ndarray]]


def page(a: Side, b: Side, colours: np.ndarray) -> str:
    """The page's HTML; `colours` uint8 `[c, 3]` of the classes both sides have."""
    sections = (
        _headline(a, b),
        _curves(a, b),
        _classes(a, b, colours),
        _images(a, b),
        _pictures(a, b),
        _configs(a, b),
    )
    title = f"{a.name} and {b.name}"
    return html.document(title, "\n".join(filter(None, sections)), style.COMPARE)


def _headline(a: Side, b: Side) -> str:
    tiles = []
    for key, label in (
        ("miou", "mIoU"),
        ("pixel_accuracy", "pixel accuracy"),
        ("mean_accuracy", "mean class accuracy"),
        ("category_miou", "category mIoU"),
        ("instance_miou", "instance mIoU"),
        *((k, k.replace("_", " ")) for k in a.evaluation if _BOUNDARY.fullmatch(k)),
    ):
        pair = a.evaluation.get(key), b.evaluation.get(key)
        if None in pair:
            continue
        values = " ".join(
            f'<i class="s{i}">{html.percent(value, 2)}</i>'
            for i, value in enumerate(pair)
        )
        tiles.append(
            f'<div><span class="label">{label}, %</span>'
            f'<span class="value">{_delta(*pair, digits=2)}</span>'
            f'<span class="sub">{values}</span></div>'
        )
    sides = "".join(
        f'<p><b class="s{i}">{"AB"[i]}</b> {escape(side.name)} '
        f"<span>{escape(_measured(side))}</span></p>"
        for i, side in enumerate((a, b))
    )
    differing = [
        key
        for key in ("split", "protocol", "weights", "images")
        if a.evaluation.get(key) != b.evaluation.get(key)
    ]
    warning = ""
    if differing:
        warning = (
            f'<p class="warning">Not measured alike: {" and ".join(differing)} '
            f"differ{'s' if len(differing) == 1 else ''}.</p>"
        )
    return (
        '<header>\n<p class="kicker">eseg_jax · comparison, B minus A</p>\n'
        f'<div class="sides">{sides}</div>{warning}\n'
        f'<div class="stats">{"".join(tiles)}</div>\n</header>'
    )


def _measured(side: Side) -> str:
    record = side.evaluation
    parts = [series_name(record), f"step {record['step']:,}"]
    return ", ".join([*parts, record.get("protocol") or ""]).rstrip(", ")


def _curves(a: Side, b: Side) -> str:
    end = max((r["step"] for side in (a, b) for r in side.records), default=0)
    losses, mious = {}, {}
    for name, side in zip("AB", (a, b), strict=True):
        losses[name] = charts.smooth(train_points(side.records, "loss"))
        series = series_name(side.evaluation)
        mious[name] = [
            (r["step"], 100 * r["miou"])
            for r in side.records
            if r["split"] != "train" and series_name(r) == series and r.get("miou")
        ]
    if not any(losses.values()) and not any(mious.values()):
        return ""
    figures = charts.lines("Loss, smoothed", losses, end=end) + charts.lines(
        "mIoU, %", mious, end=end, dots=True
    )
    return html.section("Curves", "", f'<div class="charts">{figures}</div>')


def _classes(a: Side, b: Side, colours: np.ndarray) -> str:
    rows = []
    for name, colour in zip(a.evaluation["iou"], colours, strict=True):
        pair = a.evaluation["iou"][name], b.evaluation["iou"][name]
        bars = "".join(
            f'<b class="s{i}" style="width:{100 * (value or 0):.2f}%"></b>'
            for i, value in enumerate(pair)
        )
        numbers = "".join(
            f'<span class="iou">{html.percent(value)}</span>' for value in pair
        )
        rows.append(
            f'<li><i style="background:{html.rgb(colour)}"></i>'
            f'<span class="name" title="{escape(name)}">{escape(name)}</span>'
            f'<span class="pair">{bars}</span>{numbers}'
            f'<span class="delta">{_delta(*pair)}</span></li>'
        )
    head = (
        '<li class="head"><i></i><span class="name">class</span>'
        '<span class="pair"></span><span class="iou">A</span>'
        '<span class="iou">B</span><span class="delta">B − A</span></li>'
    )
    columns = 1 + (len(rows) > 12)
    size = -(-len(rows) // columns)
    lists = "".join(
        f"<ul>{head}{''.join(rows[i : i + size])}</ul>"
        for i in range(0, len(rows), size)
    )
    body = f'<div class="bars" style="--columns:{columns}">{lists}</div>'
    return html.section("Classes", "IoU in percent", body)


def _common(a: Side, b: Side) -> dict[str, tuple[float, float]]:
    """mIoU of each image that has one on both sides."""
    pairs = {k: (v[0], b.scores[k][0]) for k, v in a.scores.items() if k in b.scores}
    return {name: pair for name, pair in pairs.items() if None not in pair}


def _images(a: Side, b: Side) -> str:
    pairs = _common(a, b)
    if not pairs:
        return ""
    changes = {name: y - x for name, (x, y) in pairs.items()}
    values = np.array(list(changes.values()))
    note = (
        f"mIoU of each of {len(pairs):,} images; B is better on "
        f"{(values > 0).sum():,} and worse on {(values < 0).sum():,}. "
        f"Mean of the differences {100 * values.mean():+.2f}"
    )
    if len(values) > 1:
        error = values.std(ddof=1) / math.sqrt(len(values))
        note += f" ± {100 * error:.2f} (standard error)"
    order = sorted(changes, key=changes.get)
    losses = [name for name in order[:_LISTED] if changes[name] < 0]
    gains = [name for name in order[::-1][:_LISTED] if changes[name] > 0]
    lists = "".join(
        f"<div><h3>{title}</h3><ol>"
        f"{''.join(_item(name, pairs[name]) for name in names)}</ol></div>"
        for title, names in (("B is best ahead", gains), ("B is worst behind", losses))
        if names
    )
    body = (
        f'<div class="images">{charts.scatter("A, %", "B, %", pairs)}'
        f'<div class="lists">{lists}</div></div>'
    )
    return html.section("Images", escape(note) + ".", body)


def _item(name: str, pair: tuple[float, float]) -> str:
    return (
        f'<li><span title="{escape(name)}">{escape(name)}</span>'
        f"<em>{html.percent(pair[0])} → {html.percent(pair[1])}</em>"
        f"{_delta(*pair)}</li>"
    )


def _pictures(a: Side, b: Side) -> str:
    pairs = {file_name(name): pair for name, pair in _common(a, b).items()}
    names = [name for name in a.pictures if name in b.pictures]
    names = [
        name
        for name in names
        if a.pictures[name]["truth"].shape == b.pictures[name]["truth"].shape
    ]
    change = {n: abs(np.subtract(*pairs[n])) if n in pairs else 0.0 for n in names}
    blocks = []
    for name in sorted(names, key=change.get, reverse=True)[:_LISTED]:
        tiles, other = a.pictures[name], b.pictures[name]["prediction"]
        shown = {
            "input": tiles["input"],
            "truth": tiles["truth"],
            "A": tiles["prediction"],
            "B": other,
            "who is right": _who(*tiles.values(), other),
        }
        note = name
        if name in pairs:
            x, y = pairs[name]
            note = f"{name}, mIoU {html.percent(x)} → {html.percent(y)}"
        blocks.append(html.picture(name, note, shown))
    if not blocks:
        return ""
    legend = "".join(
        f'<li><i style="background:{html.rgb(colour)}"></i>{text}</li>'
        for text, colour in (
            ("only A is right", _ONE_RIGHT["A"]),
            ("only B is right", _ONE_RIGHT["B"]),
            ("both are wrong", _BOTH_WRONG),
            ("not labelled", (0, 0, 0)),
        )
    )
    head = "".join(f"<span>{title}</span>" for title in shown)
    body = (
        f'<ul class="legend">{legend}</ul><div class="tiles titles">{head}</div>'
        f"{''.join(blocks)}"
    )
    return html.section(
        "Pictures", "Those that differ most first.", f'<div class="five">{body}</div>'
    )


def _who(image, truth, first, error, second) -> np.ndarray:
    """Which side is right, uint8 `[h, w, 3]`; the maps are in the classes' colours."""
    truth, first, second = (html.packed(x) for x in (truth, first, second))
    pale = image.astype(np.uint16).sum(axis=-1) // 6 + 110
    out = np.repeat(pale[..., None].astype(np.uint8), 3, axis=-1)
    out[(first == truth) & (second != truth)] = _ONE_RIGHT["A"]
    out[(first != truth) & (second == truth)] = _ONE_RIGHT["B"]
    out[(first != truth) & (second != truth)] = _BOTH_WRONG
    out[~error.any(axis=-1)] = 0  # black: not labelled
    return out


def _configs(a: Side, b: Side) -> str:
    first, second = (dict(_flat(side.config)) for side in (a, b))
    rows = "".join(
        f"<tr><th>{escape(key)}</th><td>{escape(_shown(first, key))}</td>"
        f"<td>{escape(_shown(second, key))}</td></tr>"
        for key in sorted(first.keys() | second.keys())
        if _shown(first, key) != _shown(second, key)
    )
    if not rows:
        return html.section("Configurations", "They are the same.", "")
    head = "<tr><th></th><td>A</td><td>B</td></tr>"
    return html.section(
        "Configurations", "What differs.", f"<table>{head}{rows}</table>"
    )


def _flat(config, prefix=""):
    if isinstance(config, dict) and (config or not prefix):
        for key, value in config.items():
            yield from _flat(value, f"{prefix}{key}.")
    else:
        yield prefix.removesuffix("."), config


def _shown(config: dict, key: str) -> str:
    return str(config[key]) if key in config else "–"


def _delta(first: float | None, second: float | None, digits: int = 1) -> str:
    if first is None or second is None:
        return "<u>–</u>"
    change = 100 * (second - first)
    text = f"{change:+.{digits}f}".replace("-", "−")
    if float(f"{change:.{digits}f}") == 0:
        return f"<u>{text.replace('+', '±').replace('−', '±')}</u>"
    return f'<u class="{"up" if change > 0 else "down"}">{text}</u>'

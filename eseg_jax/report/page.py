"""One self-contained HTML page about a run: no script library, no network, no files.

`page(run)` is a pure function from what was reported to the text of `report.html`;
charts are inline SVG (`charts.py`), pictures are inlined.
"""

import dataclasses
import json
from html import escape

import numpy as np

from eseg_jax.report import charts, html

FILM_STEPS = 8  # earlier predictions shown of an image

_SHEET_WIDTH = 1440
_LISTED_CONFUSIONS = 12
_TIME_PARTS = {
    "compile": ("compile", "#8b7fd4"),
    "step": ("training step", "#3f8f6b"),
    "input": ("input wait", "#e0a33a"),
    "evaluation": ("evaluation", "#4a86cf"),
    "checkpoint": ("checkpoint", "#c9667a"),
    "other": ("other", "#9aa3ad"),
}


@dataclasses.dataclass(frozen=True)
class Worst:
    """An image of low mIoU: its panel's tiles by title, uint8 `[h, w, 3]`."""

    name: str
    step: int
    miou: float
    tiles: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Run:
    """What the page is made of.

    config, header: JSON-able; the header is provenance.
    class_names, colours: c names, uint8 `[c, 3]`.
    records: lines of metrics.jsonl. timing: lines of timing.jsonl.
    confusion: (step, int64 `[c, c]`, rows are the truth) or None.
    pictures: name -> (step, {title: uint8 `[h, w, 3]`}), the latest of each image.
    film: name -> {step: uint8 `[h, w, 3]`}, small predictions of every evaluation.
    worst: the images of lowest mIoU, the worst first.
    flows: name -> (step, uint8 `[h, w, 3]` of `flow.sheet`), of networks with flows.
    """

    config: dict
    header: dict
    class_names: list[str]
    colours: np.ndarray
    step: int
    total_steps: int
    batch_size: int
    num_chips: int
    records: list[dict]
    timing: list[dict]
    confusion: tuple[int, np.ndarray] | None
    pictures: dict[str, tuple[int, dict[str, np.ndarray]]]
    film: dict[str, dict[int, np.ndarray]]
    worst: list[Worst] = dataclasses.field(default_factory=list)
    flows: dict[str, tuple[int, np.ndarray]] = dataclasses.field(default_factory=dict)


def page(run: Run) -> str:
    """The page's HTML."""
    sections = (
        _headline(run),
        _curves(run),
        _class_bars(run),
        _confusion(run),
        _pictures(run),
        _worst(run),
        _flows(run),
        _time(run),
        _provenance(run),
    )
    return html.document(_title(run), "\n".join(filter(None, sections)))


# ---------------------------------------------------------------- reading records


def series_name(record: dict) -> str:
    """Names an evaluation's curve: its split and, if known, whose weights."""
    weights = record.get("weights")
    return f"{record['split']} {weights}" if weights else record["split"]


def _evaluations(records: list[dict]) -> dict[str, list[dict]]:
    series: dict[str, list[dict]] = {}
    for record in records:
        if record.get("miou", record.get("top1")) is not None:
            series.setdefault(series_name(record), []).append(record)
    return series


def _metric(record: dict) -> tuple[str, str]:
    """The field and the name of what an evaluation is judged by."""
    return ("top1", "top-1") if "top1" in record else ("miou", "mIoU")


def main_series(records: list[dict]) -> str | None:
    """The evaluation that leads the page: "val…" if there is one, else the first."""
    names = list(_evaluations(records))
    val = [name for name in names if name.split()[0] == "val"]
    return next(iter(val + names), None)


def train_points(records: list[dict], key: str) -> list[tuple[float, float]]:
    train = (r for r in records if r["split"] == "train")
    return [(r["step"], r[key]) for r in train if r.get(key) is not None]


def time_totals(timing: list[dict]) -> dict[str, float]:
    """Seconds by section over all records of timing.jsonl."""
    totals = dict.fromkeys(_TIME_PARTS, 0.0)
    for record in timing:
        for name, seconds in record["seconds"].items():
            totals[name] += seconds
    return totals


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as `h:mm:ss`."""
    minutes, second = divmod(round(max(seconds, 0)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"


def spread(items, count: int) -> list:
    """At most `count` of the items, evenly spaced, the first and last among them."""
    items = list(items)
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _name_in(config: dict, key: str) -> str:
    value = config.get(key)
    return str(value.get("name", "") if isinstance(value, dict) else value or "")


def _title(run: Run) -> str:
    names = (_name_in(run.config, "model"), _name_in(run.config, "dataset"))
    return " on ".join(filter(None, names)) or "training run"


# ---------------------------------------------------------------- sections


def _headline(run: Run) -> str:
    evaluations = _evaluations(run.records).get(main_series(run.records) or "", [])
    state = "finished" if run.step >= run.total_steps else "in progress"
    done = 100 * run.step / run.total_steps if run.total_steps else 100
    stats = []
    if evaluations:
        last = evaluations[-1]
        key, metric = _metric(last)
        best = max(evaluations, key=lambda r: r[key])
        best_step, last_step = (f"step {r['step']:,}" for r in (best, last))
        split = last["split"]
        stats += [
            (f"best {metric}, {split}", html.percent(best[key], 2), best_step),
            (f"last {metric}, {split}", html.percent(last[key], 2), last_step),
        ]
        also = {
            "top5": "top-5",
            "pixel_accuracy": "pixel accuracy",
            "mean_accuracy": "mean class accuracy",
        }
        stats += [
            (name, html.percent(last[field], 2), last_step)
            for field, name in also.items()
            if field in last
        ]
        stats = [(label, f"{v}<small>%</small>", sub) for label, v, sub in stats]
    rates = [r["images_per_second"] for r in run.timing if r["images_per_second"]]
    if rates:
        rate = float(np.median(rates))
        chips = f"{charts.number(rate / run.num_chips)} per chip · {run.num_chips} "
        chips += "chip" if run.num_chips == 1 else "chips"
        stats.append(("images/s", charts.number(rate), chips))
    if run.timing:
        total = sum(time_totals(run.timing).values())
        stats.append(("wall time", duration(total), f"batch {run.batch_size}"))
    tiles = "".join(
        f'<div><span class="label">{escape(label)}</span>'
        f'<span class="value">{value}</span>'
        f'<span class="sub">{escape(sub)}</span></div>'
        for label, value, sub in stats
    )
    model, dataset = _name_in(run.config, "model"), _name_in(run.config, "dataset")
    heading = " <i>on</i> ".join(escape(n) for n in (model, dataset) if n)
    return (
        f'<header>\n<p class="kicker">eseg_jax · {state} · step {run.step:,} of '
        f"{run.total_steps:,}</p>\n<h1>{heading or 'Training run'}</h1>\n"
        f'<div class="done"><span style="width:{done:.2f}%"></span></div>\n'
        f'<div class="stats">{tiles}</div>\n</header>'
    )


def _curves(run: Run) -> str:
    loss = train_points(run.records, "loss")
    evaluations = _evaluations(run.records)
    rates = [
        (r["step"], r["images_per_second"])
        for r in run.timing
        if r["images_per_second"]
    ]
    metric, scores = "mIoU", {}
    for name, series in evaluations.items():
        key, metric = _metric(series[-1])
        scores[name] = [(r["step"], 100 * r[key]) for r in series]
    end = run.total_steps
    figures = [
        charts.lines("Loss", {"smoothed": charts.smooth(loss)}, end=end, faint=loss),
        charts.lines(f"{metric}, %", scores, end=end, dots=True),
        charts.lines(
            "Learning rate", {"": train_points(run.records, "learning_rate")}, end=end
        ),
        charts.lines("Images/s", {"": rates}, end=end),
    ]
    keys = dict.fromkeys(k for r in run.records if r["split"] == "train" for k in r)
    others = [
        charts.lines(
            key,
            {"": charts.smooth(train_points(run.records, key))},
            end=end,
            small=True,
        )
        for key in keys
        if key not in ("step", "split", "loss", "learning_rate")
    ]
    body = f'<div class="charts">{"".join(figures)}</div>'
    if others:
        body += f'<div class="charts small">{"".join(others)}</div>'
    return html.section("Curves", "", body)


def _class_bars(run: Run) -> str:
    evaluations = _evaluations(run.records).get(main_series(run.records) or "")
    if not evaluations:
        return ""
    last = evaluations[-1]
    if "iou" not in last:  # a classification
        return ""
    if run.confusion:
        counts = run.confusion[1].sum(axis=1)
        shares = counts / max(counts.sum(), 1)
    else:
        shares = [None] * len(run.class_names)
    rows = []
    for name, colour, share in zip(run.class_names, run.colours, shares, strict=True):
        iou = last["iou"].get(name)
        paint = html.rgb(colour)
        bar = f'<b style="width:{100 * (iou or 0):.2f}%;background:{paint}"></b>'
        share = "" if share is None else html.percent(share)
        rows.append(
            f'<li><i style="background:{paint}"></i>'
            f'<span class="name" title="{escape(name)}">{escape(name)}</span>'
            f'<span class="bar">{bar}</span>'
            f'<span class="iou">{html.percent(iou)}</span>'
            f'<span class="share">{share}</span></li>'
        )
    columns = 1 + (len(rows) > 12) + (len(rows) > 40)
    head = (
        '<li class="head"><i></i><span class="name">class</span>'
        '<span class="bar"><em>0</em><em>50</em><em>100</em></span>'
        '<span class="iou">IoU %</span>'
        '<span class="share">pixels %</span></li>'
    )
    size = -(-len(rows) // columns)
    lists = "".join(
        f"<ul>{head}{''.join(rows[i : i + size])}</ul>"
        for i in range(0, len(rows), size)
    )
    weights = f", {last['weights']} weights" if last.get("weights") else ""
    note = escape(
        f"{last['split']}{weights}, step {last['step']:,}; "
        "pixels: share of the labelled pixels"
    )
    body = f'<div class="bars" style="--columns:{columns}">{lists}</div>'
    return html.section("Classes", note, body)


def _confusion(run: Run) -> str:
    if run.confusion is None:
        return ""
    step, matrix = run.confusion
    rows = matrix.sum(axis=1, keepdims=True)
    share = matrix / np.maximum(rows, 1)
    wrong = np.where(np.eye(len(matrix), dtype=bool), 0, share)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_LISTED_CONFUSIONS]
    pairs = [divmod(int(k), len(matrix)) for k in order]
    items = "".join(
        f'<li><i style="background:{html.rgb(run.colours[t])}"></i>'
        f"<span>{escape(run.class_names[t])}</span><em>as</em>"
        f'<i style="background:{html.rgb(run.colours[p])}"></i>'
        f"<span>{escape(run.class_names[p])}</span>"
        f"<b>{html.percent(share[t, p])}</b></li>"
        for t, p in pairs
        if wrong[t, p] > 0
    )
    body = (
        f'<div class="confusion"><div class="scroll">'
        f"{charts.confusion(matrix, run.class_names)}</div>"
        f'<div class="pairs"><h3>Largest confusions, %</h3><ol>{items}</ol></div></div>'
    )
    note = (
        "Each row is a true class and sums to 100 %; columns are predictions. "
        f"Step {step:,}."
    )
    return html.section("Confusion", note, body)


def _pictures(run: Run) -> str:
    if not run.pictures:
        return ""
    blocks = []
    for name, (step, tiles) in run.pictures.items():
        earlier = spread(
            [s for s in sorted(run.film.get(name, {})) if s < step], FILM_STEPS
        )
        small = (
            (s, html.image(run.film[name][s], html.TILE_WIDTH, f"{name}, step {s}"))
            for s in earlier
        )
        film = "".join(
            f"<figure>{image}<figcaption>{s:,}</figcaption></figure>"
            for s, image in small
        )
        film = f'<div class="film">{film}</div>' if film else ""
        blocks.append(html.picture(name, f"{name}, step {step:,}", tiles, film))
    note = "Error: red is wrong, black is not labelled. Below: earlier predictions."
    shown = [tiles for _, tiles in run.pictures.values()]
    return html.section(
        "Validation images",
        note,
        _legend(run, shown) + _titles(shown) + "".join(blocks),
    )


def _worst(run: Run) -> str:
    if not run.worst:
        return ""
    blocks = [
        html.picture(w.name, f"{w.name}, mIoU {html.percent(w.miou)} %", w.tiles)
        for w in run.worst
    ]
    note = (
        "Lowest mIoU over the classes in an image's truth or prediction. "
        f"Step {run.worst[0].step:,}; scores of all images are in scores_*.csv."
    )
    shown = [w.tiles for w in run.worst]
    return html.section(
        "Worst images", note, _legend(run, shown) + _titles(shown) + "".join(blocks)
    )


def _flows(run: Run) -> str:
    if not run.flows:
        return ""
    blocks = "".join(
        f'<div class="picture"><p class="note">{escape(name)}, step {step:,}</p>'
        f'<div class="wide">{html.image(sheet, _SHEET_WIDTH, name, photo=True)}</div>'
        "</div>"
        for name, (step, sheet) in run.flows.items()
    )
    note = (
        "What each alignment module does, coarsest first: the map before it (mean over "
        "channels), its flow (hue is direction, saturation length), the map after it, "
        "and arrows from where a value is read to where it is put."
    )
    return html.section("Semantic flow", note, blocks)


def _legend(run: Run, pictures: list[dict[str, np.ndarray]]) -> str:
    """The classes whose colours occur in the label maps."""
    maps = [t for tiles in pictures for k, t in tiles.items() if k not in html.PHOTOS]
    seen = set().union(*(np.unique(html.packed(m)).tolist() for m in maps))
    items = "".join(
        f'<li><i style="background:{html.rgb(colour)}"></i>{escape(name)}</li>'
        for name, colour in zip(run.class_names, run.colours, strict=True)
        if int(html.packed(colour)) in seen
    )
    return f'<ul class="legend">{items}</ul>'


def _titles(pictures: list[dict[str, np.ndarray]]) -> str:
    head = "".join(f"<span>{escape(title)}</span>" for title in pictures[0])
    return f'<div class="tiles titles">{head}</div>'


def _time(run: Run) -> str:
    totals = time_totals(run.timing)
    whole = sum(totals.values())
    if not whole:
        return ""
    bar, legend = [], []
    for key, seconds in totals.items():
        name, colour = _TIME_PARTS[key]
        share, text = 100 * seconds / whole, duration(seconds)
        bar.append(
            f'<span style="width:{share:.3f}%;background:{colour}" '
            f'title="{name} {text}"></span>'
        )
        legend.append(
            f'<li><i style="background:{colour}"></i><span>{name}</span>'
            f"<b>{share:.1f}<small>%</small></b><em>{text}</em></li>"
        )
    body = (
        f'<div class="split">{"".join(bar)}</div>'
        f'<ul class="times">{"".join(legend)}</ul>'
    )
    return html.section("Time", f"{duration(whole)} of wall time", body)


def _provenance(run: Run) -> str:
    rows, folded = [], {"config": json.dumps(run.config, indent=2)}
    for key, value in run.header.items():
        if isinstance(value, dict):
            value = " · ".join(f"{k} {v}" for k, v in value.items())
        key = key.replace("_", " ")
        if "\n" in str(value):
            folded[key] = str(value)
        else:
            rows.append(f"<tr><th>{escape(key)}</th><td>{escape(str(value))}</td></tr>")
    details = "".join(
        f"<details><summary>{escape(k.capitalize())}</summary>"
        f"<pre>{escape(v)}</pre></details>"
        for k, v in folded.items()
    )
    return html.section("Provenance", "", f"<table>{''.join(rows)}</table>{details}")

"""Other thresholds for pseudo-labels, from the stored confidence: no teacher needed.

  python -m eseg_jax.tools.rethreshold --pseudo=DIR --sweep=sweep
  python -m eseg_jax.tools.rethreshold --pseudo=DIR --sweep=sweep --config=FILE.py
  python -m eseg_jax.tools.rethreshold --pseudo=DIR --out=DIR2 --threshold=0.7
  python -m eseg_jax.tools.rethreshold --pseudo=DIR --out=DIR2 --threshold=0 \
      --top_fraction=0.3

DIR is a folder of --mode=pseudo_label. --sweep writes sweep.csv and sweep.svg: for each
threshold the share of the pixels that is kept and, where the images have labels, how
many of those are right; these are the labels of the split in the configuration file
that was given for labelling. --out writes a folder for --config.dataset.pseudo with
labels of its own that goes on using DIR's images and confidence; its labels are those
that the teacher would have written.
"""

from __future__ import annotations

import csv
import io
import json
import os

import numpy as np
from absl import app, flags
from etils import epath
from ml_collections import config_flags

from eseg_jax import input as eseg_input
from eseg_jax import pseudo_output
from eseg_jax.input import InputError, pseudo
from eseg_jax.report import charts
from eseg_jax.report.files import write_text
from eseg_jax.report.progress import progress


def rethreshold(folder, out, levels_of) -> dict:
    """Writes the folder of other labels and returns its pseudo.json.

    Args:
      folder: of --mode=pseudo_label, or one that this wrote.
      out: where to write; InputError if it has pseudo-labels.
      levels_of: (store, records, classes) -> int [c], the lowest byte of each class.
    """
    folder, out = epath.Path(folder).expanduser(), epath.Path(out).expanduser()
    meta = pseudo.read_meta(folder)
    if (out / "pseudo.json").exists():
        raise InputError(f"{out} has pseudo-labels already; give another --out.")
    store = epath.Path(meta.get("store", folder))
    names = meta["class_names"]
    records = pseudo.read_manifest(folder)
    good = [record for record in records if "broken" not in record]
    levels = levels_of(store, good, len(names))
    made = {r["name"]: r for r in pseudo_output.relabel(store, out, good, levels)}
    records = [made.get(record["name"], record) for record in records]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    write_text(out / "manifest.jsonl", lines)
    for name in ("threshold", "class_thresholds", "top_fraction"):
        meta.pop(name, None)  # the levels of the classes say it
    meta |= {"store": os.path.abspath(store) if "://" not in str(store) else str(store)}
    meta |= pseudo_output.summary(records, levels, names)
    write_text(out / "pseudo.json", json.dumps(meta, indent=2) + "\n")
    return meta


def count(store, records, classes: int, labels=None) -> dict[str, np.ndarray]:
    """int64 [256], pixels by confidence byte: "all"; with labels "known" and "right".

    Args:
      store, records, classes: of a finished folder.
      labels: None, or the true labels of the records.
    """
    if labels is None:
        return {"all": pseudo_output.histogram(store, records, classes).sum(0)}
    counts = {name: np.zeros(256, np.int64) for name in ("all", "known", "right")}
    pairs = zip(records, labels, strict=True)
    for record, label in progress(pairs, len(records), "images"):
        if "broken" in record:
            continue
        argmax, confidence = pseudo.read_answer(store, record)
        if argmax.shape != label.shape:
            raise InputError(
                f"The label of {record['name']} is {label.shape[1]}x{label.shape[0]} "
                f"and its pseudo-label {argmax.shape[1]}x{argmax.shape[0]}; --config "
                "is not the one whose split was labelled."
            )
        known = label != pseudo.IGNORE
        for name, pixels in (
            ("all", confidence),
            ("known", confidence[known]),
            ("right", confidence[known & (label == argmax)]),
        ):
            counts[name] += np.bincount(pixels.ravel(), minlength=256)
    return counts


def sweep(counts: dict[str, np.ndarray]) -> list[dict[str, float]]:
    """For thresholds from 0 to 0.99: coverage and, if known, accuracy; shares."""
    above = {name: x[::-1].cumsum()[::-1] for name, x in counts.items()}
    rows = []
    for threshold in np.arange(100) / 100:
        at = pseudo.level(threshold)
        row = {"threshold": float(threshold)}
        row["coverage"] = above["all"][at] / above["all"][0]
        if "known" in above and above["known"][at]:
            row["accuracy"] = above["right"][at] / above["known"][at]
        rows.append(row)
    return rows


def write_sweep(name: str, rows: list[dict[str, float]]) -> None:
    """Writes NAME.csv and NAME.svg."""
    text = io.StringIO()
    fields = ("threshold", "coverage", "accuracy")
    table = csv.DictWriter(text, fields, lineterminator="\n")
    table.writeheader()
    table.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in rows)
    write_text(epath.Path(f"{name}.csv"), text.getvalue())
    write_text(epath.Path(f"{name}.svg"), _svg(rows))


def _svg(rows: list[dict[str, float]]) -> str:
    """Coverage and accuracy in per cent over the threshold."""
    width, height, left, bottom, top = 560, 320, 52, 44, 16
    low = 10 * int(10 * min(v for r in rows for k, v in r.items() if k != "threshold"))

    def at(x, y):
        across, up = width - left - 12, height - top - bottom
        return left + across * x, top + up * (100 - y) / (100 - low or 1)

    parts = []
    for tick in charts.ticks(low, 100):
        x, y = at(0, tick)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{width - 12}"/>')
        parts.append(f'<text x="{x - 8}" y="{y + 4:.1f}" class="end">{tick:g} %</text>')
    for tick in range(0, 11, 2):
        x, y = at(tick / 10, low)
        parts.append(f'<text x="{x:.1f}" y="{y + 18:.1f}">{tick / 10:g}</text>')
    middle = at(0.5, low)
    parts.append(f'<text x="{middle[0]}" y="{middle[1] + 36:.1f}">threshold</text>')
    for name in ("coverage", "accuracy"):
        points = [(r["threshold"], 100 * r[name]) for r in rows if name in r]
        if not points:
            continue
        path = "L".join("{:.1f} {:.1f}".format(*at(*point)) for point in points)
        x, y = at(*points[len(points) // 4])
        parts.append(f'<path class="{name}" d="M{path}"/>')
        parts.append(f'<text class="{name}" x="{x:.1f}" y="{y - 8:.1f}">{name}</text>')
    style = (
        "text{font:12px sans-serif;text-anchor:middle;fill:#444}.end{text-anchor:end}"
        ".grid{stroke:#ddd}path.coverage{stroke:#2a6fdb}path.accuracy{stroke:#d1495b}"
        "path{fill:none;stroke-width:2}.grid{stroke-width:1}"
        "text.coverage{fill:#2a6fdb}text.accuracy{fill:#d1495b}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}"><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; all are --flag=value.")
    try:
        if _SWEEP.value:
            meta = pseudo.read_meta(_PSEUDO.value)
            store = epath.Path(meta.get("store", _PSEUDO.value)).expanduser()
            records = pseudo.read_manifest(_PSEUDO.value)
            labels = None
            if _CONFIG.value:
                split = meta["labelled"].get("split", "")
                ids, labels = eseg_input.labels(_CONFIG.value, split)
                if len(ids) != len(records):
                    raise InputError(
                        f"{_PSEUDO.value} has {len(records)} images and the split "
                        f"{split!r} of --config {len(ids)}; give the configuration "
                        "whose split was labelled."
                    )
            else:
                records = [record for record in records if "broken" not in record]
            rows = sweep(count(store, records, len(meta["class_names"]), labels))
            write_sweep(_SWEEP.value, rows)
            for row in rows[::10]:
                print("  ".join(f"{name} {value:.4f}" for name, value in row.items()))
        if _OUT.value:
            meta = rethreshold(_PSEUDO.value, _OUT.value, _levels)
            print(f"{meta['images']} images, {meta['coverage']:.2%} of the pixels kept")
    except InputError as error:
        print(f"eseg_jax: {error}")
        return 2
    return 0


def _levels(store, records, classes: int) -> np.ndarray:
    each = [float(t) for t in _CLASS_THRESHOLDS.value]
    levels = pseudo.levels(_THRESHOLD.value, each, classes)
    if _TOP_FRACTION.value < 1:
        counts = pseudo_output.histogram(store, records, classes)
        top = pseudo.top_levels(counts, _TOP_FRACTION.value)
        levels = np.maximum(levels, top)
    return levels


if __name__ == "__main__":
    _PSEUDO = flags.DEFINE_string("pseudo", None, "Folder of --mode=pseudo_label.")
    _OUT = flags.DEFINE_string("out", None, "Folder of new labels.")
    _SWEEP = flags.DEFINE_string("sweep", None, "Write NAME.csv and NAME.svg.")
    _THRESHOLD = flags.DEFINE_float("threshold", 0.5, "Of every class.", 0, 1)
    _CLASS_THRESHOLDS = flags.DEFINE_list("class_thresholds", [], "One a class.")
    _TOP_FRACTION = flags.DEFINE_float("top_fraction", 1.0, "Of each class.", 1e-6, 1)
    _CONFIG = config_flags.DEFINE_config_file(
        "config", help_string="Whose split was labelled: has the true labels."
    )
    flags.mark_flag_as_required("pseudo")
    app.run(main)

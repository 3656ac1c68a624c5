"""Draws accuracy against multiply-adds and against latency; writes plots/*.svg.

    pip install matplotlib
    python benchmarks/plots.py

macs.svg and latency.svg have the papers' mIoU on Cityscapes (`eseg_jax.models.info`):
the validation set's, or as rings the test set's where there is no other. camvid_*.svg
have ours on CamVid's test set, of the short runs in `benchmarks/camvid.json`.
Multiply-adds are counted by eseg_jax at 1024x2048 for all, whatever size was evaluated.
Latency is of `benchmarks/inference.json`, the fastest of our ways on a CPU.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
import statistics
import sys

import matplotlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # it only counts
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, os.fspath(HERE.parent))

from eseg_jax import models  # noqa: E402
from eseg_jax.models import cost  # noqa: E402

SIZE, CLASSES = (1024, 2048), 19
OURS = ("jax", "onnxruntime")
COLOURS = {
    **{"ESeg": "C0", "ESeg-Lite": "C2", "SFNet": "C1"},
    **{"DFANet": "C3", "FRFNet": "C4"},
}
ABLATIONS = (
    *("eseg_s_", "eseg_resnet50", "frfnet_danet", "frfnet_slim_danet"),
    *("dfanet_a_x", "dfanet_b_x"),
)


def family(name: str) -> str:
    for prefix, found in (("eseg_lite", "ESeg-Lite"), ("eseg", "ESeg")):
        if name.startswith(prefix):
            return found
    return next(x for x in COLOURS if name.startswith(x.lower()))


def papers() -> list[tuple[str, float, bool]]:
    """(name, the paper's mIoU on Cityscapes, whether it is of the test set)."""
    found = []
    for name in models.names():
        info = models.info(name)
        if name.endswith("_official") or name.startswith(ABLATIONS):
            continue
        if info.miou is not None:
            found.append((name, info.miou, False))
        elif info.miou_test is not None:
            found.append((name, info.miou_test, True))
    return found


def ours() -> list[tuple[str, float, bool]]:
    """The same of our runs on CamVid, of its test set; means of the seeds."""
    runs = collections.defaultdict(list)
    for run in json.loads((HERE / "camvid.json").read_text()):
        runs[run["name"]].append(100 * run["test"]["miou"])
    return [(name, statistics.mean(scores), True) for name, scores in runs.items()]


def latencies() -> dict[str, float]:
    """name -> milliseconds of one processor at the largest measured size of all."""
    rows = json.loads((HERE / "inference.json").read_text())
    size = max((row["size"] for row in rows), key=lambda x: int(x.split("x")[0]))
    return {
        row["name"]: min(
            statistics.median(row["milliseconds"][way]["processor"])
            for way in OURS
            if way in row["milliseconds"]
        )
        for row in rows
        if row["size"] == size
    }


def draw(marks, points: dict[str, float], x_title: str, y_title: str, file: str):
    figure, axes = plt.subplots(figsize=(8.4, 4.4), layout="constrained")
    labels = []
    for name, accuracy, of_test in marks:
        if name not in points:
            continue
        colour = COLOURS[family(name)]
        face = "none" if of_test else colour
        axes.scatter(points[name], accuracy, s=46, facecolors=face, edgecolors=colour)
        where, style = (points[name], accuracy), {"textcoords": "offset points"}
        labels.append(axes.annotate(name, where, (6, -3), size=8, **style))
    for name, colour in COLOURS.items():
        axes.scatter([], [], color=colour, label=name)
    axes.scatter([], [], facecolors="none", edgecolors="grey", label="test set")
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.set(xlabel=x_title, ylabel=y_title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    figure.draw_without_rendering()
    boxes = []
    for label in labels:  # to the left of its mark if it would cover another
        if any(label.get_window_extent().overlaps(box) for box in boxes):
            label.set(horizontalalignment="right", position=(-6, -3))
        boxes.append(label.get_window_extent())
    figure.savefig(HERE / "plots" / file, metadata={"Date": None})


def main() -> None:
    (HERE / "plots").mkdir(exist_ok=True)
    plt.rcParams.update({"svg.hashsalt": "eseg_jax", "svg.fonttype": "none"})
    published, found = papers(), ours()
    names = {name for name, *_ in (*published, *found)}
    macs = {name: cost.count(name, SIZE, CLASSES).macs / 1e9 for name in names}
    milliseconds = latencies()
    for marks, y_title, prefix in (
        (published, "mIoU on Cityscapes as the papers print it, %", ""),
        (found, "mIoU of our short runs on CamVid, %", "camvid_"),
    ):
        title = "multiply-adds at 1024x2048, 1e9 (ours)"
        draw(marks, macs, title, y_title, f"{prefix}macs.svg")
        title = "milliseconds an image of 1024x2048, one core (ours)"
        draw(marks, milliseconds, title, y_title, f"{prefix}latency.svg")


if __name__ == "__main__":
    main()

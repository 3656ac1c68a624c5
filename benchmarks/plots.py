"""Draws accuracy against multiply-adds and against latency; writes plots/*.svg.

    pip install matplotlib
    python benchmarks/plots.py

Marks are the papers' mIoU on Cityscapes (`eseg_jax.models.info`): the validation
set's, or as rings the test set's where there is no other. None of them is ours.
Multiply-adds are counted by eseg_jax at 1024x2048 for all, whatever size the paper
evaluated. Latency is of `benchmarks/inference.json`, the fastest of our ways on a CPU.
"""

from __future__ import annotations

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


def accuracies() -> dict[str, tuple[float, bool]]:
    """name -> (the paper's mIoU on Cityscapes, whether it is of the test set)."""
    found = {}
    for name in models.names():
        info = models.info(name)
        if name.endswith("_official") or name.startswith(ABLATIONS):
            continue
        if info.miou is not None:
            found[name] = info.miou, False
        elif info.miou_test is not None:
            found[name] = info.miou_test, True
    return found


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


def draw(points: dict[str, float], x_title: str, path: pathlib.Path) -> None:
    figure, axes = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
    for name, (accuracy, of_test) in accuracies().items():
        if name not in points:
            continue
        colour = COLOURS[family(name)]
        face = "none" if of_test else colour
        axes.scatter(points[name], accuracy, s=46, facecolors=face, edgecolors=colour)
        axes.annotate(
            name, (points[name], accuracy), (6, -3), textcoords="offset points", size=8
        )
    for name, colour in COLOURS.items():
        axes.scatter([], [], color=colour, label=name)
    axes.scatter([], [], facecolors="none", edgecolors="grey", label="test set")
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.set(xlabel=x_title, ylabel="mIoU on Cityscapes as the papers print it, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    out = HERE / "plots"
    out.mkdir(exist_ok=True)
    plt.rcParams.update({"svg.hashsalt": "eseg_jax", "svg.fonttype": "none"})
    macs = {name: cost.count(name, SIZE, CLASSES).macs / 1e9 for name in accuracies()}
    draw(macs, "multiply-adds at 1024x2048, 1e9 (ours)", out / "macs.svg")
    draw(latencies(), "milliseconds an image, one core (ours)", out / "latency.svg")


if __name__ == "__main__":
    main()

"""Compares two runs, or two evaluations, on one HTML page.

    python -m eseg_jax.tools.compare A B [--out=compare.html]

A and B are workdirs, of which the latest evaluation counts, or records that
--mode=evaluate wrote, WORKDIR/evaluation/….json: two protocols or two checkpoints of
one run can be compared too. The page has the metrics, the curves, the IoU of each
class, the mIoU of each image, pictures with who is right where, and what differs
between the configurations.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from eseg_jax.input import datasets
from eseg_jax.report import compare as compare_page
from eseg_jax.report import page, panels
from eseg_jax.report.compare import Side
from eseg_jax.report.files import JsonLines, file_name, read_scores, write_text
from eseg_jax.report.gallery import read_worst


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m eseg_jax.tools.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", metavar="A", help="workdir or record of an evaluation")
    parser.add_argument("b", metavar="B", help="what to compare it with")
    parser.add_argument("--out", default="compare.html", help="the page")
    args = parser.parse_args(argv)
    try:
        a, b = read(args.a), read(args.b)
        names = list(a.evaluation["iou"])
        if names != list(b.evaluation["iou"]):
            raise ValueError(
                f"{args.a} and {args.b} have different classes; compare runs on one "
                "dataset."
            )
        text = compare_page.page(a, b, _colours(a.config, names))
        write_text(epath.Path(args.out), text)
    except (ValueError, OSError) as error:
        print(f"eseg_jax: {error}", file=sys.stderr)
        return 2
    first, second = a.evaluation["miou"], b.evaluation["miou"]
    print(f"mIoU {100 * first:.2f} and {100 * second:.2f} %: {args.out}")
    return 0


def read(path: str) -> Side:
    """What a workdir, or a record of an evaluation, has to compare.

    Raises:
      ValueError: there is no evaluation.
    """
    place = epath.Path(path)
    return _read_record(place) if place.suffix == ".json" else _read_workdir(place)


def _read_workdir(workdir: epath.Path) -> Side:
    if not (workdir / "config.json").exists():
        raise ValueError(f"{workdir} has no config.json: it is no run's workdir.")
    records = JsonLines(workdir / "metrics.jsonl").records
    series = page.main_series(records)
    if series is None:
        raise ValueError(f"{workdir} has no evaluation yet; let it run to its first.")
    evaluations = [r for r in records if r.get("miou") is not None]
    evaluation = [r for r in evaluations if page.series_name(r) == series][-1]
    scores = workdir / f"scores_{file_name(series)}.csv"
    latest: dict[str, tuple[int, epath.Path]] = {}
    for picture in (workdir / "images").glob("*_*.png"):
        step, name = picture.stem.split("_", 1)
        latest[name] = max(latest.get(name, (-1, picture)), (int(step), picture))
    pictures = {name: panels.decode(p.read_bytes()) for name, (_, p) in latest.items()}
    return Side(
        name=str(workdir),
        config=_config(workdir),
        records=records,
        evaluation=evaluation,
        scores=read_scores(scores)[1] if scores.exists() else {},
        pictures=pictures | {w.name: w.tiles for w in read_worst(workdir / "worst")},
    )


def _read_record(path: epath.Path) -> Side:
    if not path.exists():
        raise ValueError(f"{path} does not exist; --mode=evaluate writes such files.")
    evaluation = json.loads(path.read_text())
    scores = path.with_suffix(".csv")
    return Side(
        name=str(path),
        config=_config(path.parent.parent),
        records=[],
        evaluation=evaluation,
        scores=read_scores(scores)[1] if scores.exists() else {},
        pictures={w.name: w.tiles for w in read_worst(path.with_suffix(""))},
    )


def _config(workdir: epath.Path) -> dict:
    path = workdir / "config.json"
    return json.loads(path.read_text())["config"] if path.exists() else {}


def _colours(config: dict, class_names: list[str]) -> np.ndarray:
    """The dataset's colours; grey when its classes are not at hand."""
    try:
        dataset = datasets.configured(ConfigDict(config["dataset"]))
    except (KeyError, ValueError, OSError):
        dataset = None
    if dataset and list(dataset.class_names) == class_names:
        return dataset.colours
    return np.full((len(class_names), 3), 140, np.uint8)


if __name__ == "__main__":
    sys.exit(main())

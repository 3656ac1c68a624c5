"""Does self-training pay? Teacher, student and baseline on CamVid, several seeds.

    python benchmarks/selftrain.py --workdir=DIR --camvid=FOLDER [--steps=400] …

FOLDER is CamVid in SegNet's layout; --shrink=2 halves its images first. A quarter of
the 367 training images (92) keeps its labels; the other 275 count as unlabelled. With
--labelled=spread it is every fourth image, so that each unlabelled one is seconds from
a labelled one; with --labelled=first it is the first 92, of other drives than most of
the rest and than the validation images. For each seed

    teacher   is trained on the 92,
    student   goes on from it with the 92 and its labels of the 275, half and half,
    baseline  goes on from it, as long, with the 92 alone,
    all       goes on from it, as long, with the true labels of all 367: the most that
              a student could win; made last.

Of the teacher's labels those are kept that are above --threshold and among the
--top_fraction most certain of their class (class-balanced self-training, Zou et al.
2018). Each is evaluated on val and test by its last weights. The same command resumes.
The table is in DIR/table.md, means and standard deviations over the seeds; what follows
-- goes to every training and evaluation.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

from PIL import Image

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_KINDS = ("teacher", "baseline", "student", "all")
_SPLITS = ("val", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--camvid", type=pathlib.Path, required=True)
    parser.add_argument("--config", default="configs/eseg_lite_s.py:camvid")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--shrink", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--labelled", choices=("spread", "first"), default="spread")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--top_fraction", type=float, default=1.0)
    parser.add_argument("rest", nargs="*", help="-- --config.FIELD=VALUE …")
    args = parser.parse_args()
    spread = args.labelled == "spread"
    few = _part(args, "few", lambda i: i % 4 == 0 if spread else i < 92)
    many = _part(args, "many", lambda i: i % 4 != 0 if spread else i >= 92)
    whole = _part(args, "whole", lambda i: True)
    for seed in args.seeds:
        on_few = [*_common(args, seed), f"--config.dataset.root={few}"]
        teacher = _train(args, "teacher", seed, *on_few)
        labels = teacher / "pseudo" / "train"
        _main(
            args,
            teacher,
            "--mode=pseudo_label",
            *_common(args, seed),
            f"--config.dataset.root={many}",
            "--config.pseudo.split=train",
            f"--config.pseudo.threshold={args.threshold}",
            f"--config.pseudo.top_fraction={args.top_fraction}",
            f"--config.pseudo.output={labels}",
        )
        go_on = [f"--config.init_from={teacher}", "--config.init_part=all"]
        pseudo = f"--config.dataset.pseudo={labels}"
        _train(args, "student", seed, *on_few, *go_on, pseudo)
        _train(args, "baseline", seed, *on_few, *go_on)
    for seed in args.seeds:
        go_on = [f"--config.init_from={args.workdir / f'teacher{seed}'}"]
        go_on += ["--config.init_part=all", f"--config.dataset.root={whole}"]
        _train(args, "all", seed, *_common(args, seed), *go_on)


def _common(args, seed: int) -> list[str]:
    common = [f"--config.seed={seed}", f"--config.total_steps={args.steps}"]
    return [*common, f"--config.checkpoint_every={args.steps}", *args.rest]


def _train(args, kind: str, seed: int, *flags: str) -> pathlib.Path:
    """Trains and evaluates a run, unless that is done, and renews the table."""
    folder = args.workdir / f"{kind}{seed}"
    timing = folder / "timing.json"
    if not timing.exists() or not json.loads(timing.read_text()).get("finished"):
        _main(args, folder, *flags)
    for split in _SPLITS:
        if not _scores(args, kind, seed, split).exists():
            flag = f"--config.dataset.eval_split={split}"
            _main(args, folder, "--mode=evaluate", *flags, flag)
    _table(args)
    return folder


def _scores(args, kind: str, seed: int, split: str) -> pathlib.Path:
    folder = args.workdir / f"{kind}{seed}" / "evaluation"
    return folder / f"{split}_{args.steps}_ema.json"


def _part(args, name: str, chosen) -> pathlib.Path:
    """CamVid's folder with some lines of train.txt; the rest are links or smaller."""
    folder = args.workdir / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    for path in args.camvid.resolve().iterdir():
        target = folder / path.name
        if path.name == "train.txt" or target.exists():
            continue
        if path.is_file() or args.shrink == 1:
            target.symlink_to(path)
        else:
            _shrink(path, target, args.shrink)
    lines = (args.camvid / "train.txt").read_text().splitlines()
    lines = [line for number, line in enumerate(lines) if chosen(number)]
    (folder / "train.txt").write_text("\n".join(lines) + "\n")
    return folder


def _shrink(source: pathlib.Path, target: pathlib.Path, times: int) -> None:
    """Writes a folder's images smaller by area averages, labels by their nearest id."""
    target.mkdir()
    labels = source.name.endswith("annot")
    for path in source.iterdir():
        with Image.open(path) as image:
            size = image.width // times, image.height // times
            how = Image.Resampling.NEAREST if labels else Image.Resampling.BOX
            image.resize(size, how).save(target / path.name, quality=95)


def _main(args, folder: pathlib.Path, *flags: str) -> None:
    command = [sys.executable, "-m", "eseg_jax.main", f"--config={args.config}"]
    command += [f"--workdir={folder}", *flags]
    print("+", *command, flush=True)
    subprocess.run(command, cwd=_ROOT, check=True, env=os.environ)


def _table(args) -> None:
    """Writes the table of what is evaluated so far."""
    lines = [
        f"{args.config}, labelled {args.labelled}, {args.steps} steps, "
        f"threshold {args.threshold}, top fraction {args.top_fraction}; mIoU in %",
        "",
        "| | " + " | ".join(_SPLITS) + " | seeds |",
        "|---|---|---|---|",
    ]
    for kind in _KINDS:
        cells, count = [], 0
        for split in _SPLITS:
            files = [_scores(args, kind, seed, split) for seed in args.seeds]
            scores = [
                100 * json.loads(file.read_text())["miou"]
                for file in files
                if file.exists()
            ]
            count = len(scores)
            spread = statistics.stdev(scores) if count > 1 else 0.0
            mean = statistics.mean(scores) if scores else float("nan")
            each = ", ".join(f"{score:.2f}" for score in scores)
            cells.append(f"{mean:.2f} ± {spread:.2f} ({each})")
        if count:
            lines.append(f"| {kind} | {' | '.join(cells)} | {count} |")
    text = "\n".join(lines) + "\n"
    (args.workdir / "table.md").write_text(text)
    print(text, flush=True)


if __name__ == "__main__":
    main()

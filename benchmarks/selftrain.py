"""Does self-training pay? Teacher, student and baseline on CamVid, several seeds.

    python benchmarks/selftrain.py --workdir=DIR --camvid=FOLDER [--steps=400] …

FOLDER is CamVid in SegNet's layout; --shrink=2 halves its images first. A quarter of
the 367 training images (92, every fourth) keeps its labels; the other 275 count as
unlabelled. For each seed

    baseline  is trained on the 92,
    teacher   goes on from the baseline with the 92, as long again,
    student   starts where the baseline did, with the 92 and the teacher's pseudo-labels
              of the 275, half and half, as long and with as large batches.

Each is evaluated on val and test by its last weights. The same command resumes. At the
end the table is in DIR/table.md, means and standard deviations over the seeds; what
follows -- goes to every training and evaluation.
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
_KINDS = ("baseline", "teacher", "student")
_SPLITS = ("val", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--camvid", type=pathlib.Path, required=True)
    parser.add_argument("--config", default="configs/eseg_lite_s.py:camvid")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--shrink", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("rest", nargs="*", help="-- --config.FIELD=VALUE …")
    args = parser.parse_args()
    few = _part(args, "few", lambda number: number % 4 == 0)
    many = _part(args, "many", lambda number: number % 4 != 0)
    for seed in args.seeds:
        folders = {kind: args.workdir / f"{kind}{seed}" for kind in _KINDS}
        common = [f"--config.seed={seed}", f"--config.total_steps={args.steps}"]
        common += [f"--config.checkpoint_every={args.steps}", *args.rest]
        on_few = [*common, f"--config.dataset.root={few}"]
        _main(args, folders["baseline"], *on_few)
        start = [f"--config.init_from={folders['baseline']}", "--config.init_part=all"]
        _main(args, folders["teacher"], *on_few, *start)
        labels = folders["teacher"] / "pseudo" / "train"
        _main(
            args,
            folders["teacher"],
            "--mode=pseudo_label",
            f"--config.dataset.root={many}",
            "--config.pseudo.split=train",
            f"--config.pseudo.threshold={args.threshold}",
            f"--config.pseudo.output={labels}",
        )
        pseudo = [f"--config.dataset.pseudo={labels}"]
        _main(args, folders["student"], *on_few, *pseudo)
        for kind in _KINDS:
            for split in _SPLITS:
                flag = f"--config.dataset.eval_split={split}"
                extra = pseudo if kind == "student" else []
                _main(args, folders[kind], "--mode=evaluate", *on_few, *extra, flag)
        _table(args)


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
    """Runs the command, unless it is finished."""
    training = not any(flag.startswith("--mode") for flag in flags)
    timing = folder / "timing.json"
    if training and timing.exists() and json.loads(timing.read_text()).get("finished"):
        return
    command = [sys.executable, "-m", "eseg_jax.main", f"--config={args.config}"]
    command += [f"--workdir={folder}", *flags]
    print("+", *command, flush=True)
    subprocess.run(command, cwd=_ROOT, check=True, env=os.environ)


def _table(args) -> None:
    """Writes the table of what is evaluated so far."""
    lines = [
        f"{args.config}, {args.steps} steps, threshold {args.threshold}; mIoU in %",
        "",
        "| | " + " | ".join(_SPLITS) + " | seeds |",
        "|---|---|---|---|",
    ]
    for kind in _KINDS:
        cells, count = [], 0
        for split in _SPLITS:
            files = [
                args.workdir / f"{kind}{seed}/evaluation/{split}_{args.steps}_ema.json"
                for seed in args.seeds
            ]
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
        lines.append(f"| {kind} | {' | '.join(cells)} | {count} |")
    text = "\n".join(lines) + "\n"
    (args.workdir / "table.md").write_text(text)
    print(text, flush=True)


if __name__ == "__main__":
    main()

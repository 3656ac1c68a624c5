"""Makes and checks a submission to the Cityscapes pixel-level test server.

    python -m eseg_jax.tools.submit make WORKDIR --out=submission.zip [--root=DIR]
    python -m eseg_jax.tools.submit check submission.zip [--root=DIR]

The server wants a zip with one PNG for each of the 1,525 test images, called after it,
of 8-bit label ids (not train ids) at 2048x1024. `check` says what is wrong and ends
with 1; `make` ends with the same check. --split=val makes what cityscapesScripts' own
evaluation reads: unpack it and let CITYSCAPES_RESULTS name the folder.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import io
import os
import pathlib
import re
import sys
import zipfile

import numpy as np
from PIL import Image

import eseg_jax
from eseg_jax.input import datasets
from eseg_jax.input.datasets import cityscapes
from eseg_jax.report.progress import progress
from eseg_jax.tools.predict import Item, numbers, png, read_ahead

SIZE = (1024, 2048)  # height, width
_NAME = re.compile(r"[a-zA-Z-]+_\d{6}_\d{6}")
_SHOWN = 5


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m eseg_jax.tools.submit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("make", help="predict every image of the split")
    maker.add_argument("path", metavar="WORKDIR", help="a run or a checkpoint's folder")
    maker.add_argument("--out", default="submission.zip", type=pathlib.Path)
    maker.add_argument("--weights", choices=("ema", "raw"), default="ema")
    maker.add_argument("--scales", type=numbers, metavar="S,…", help="test scales")
    maker.add_argument("--flip", action="store_true", help="average with the mirrored")
    checker = commands.add_parser("check", help="say what is wrong with a zip")
    checker.add_argument("zip", type=pathlib.Path)
    for command in (maker, checker):
        command.add_argument("--root", default="", help="of Cityscapes")
        command.add_argument("--split", default="test", choices=("test", "val"))
    args = parser.parse_args(argv)
    try:
        if args.command == "make":
            images = find_images(args.root, args.split)
            options = {"scales": args.scales, "flip": args.flip or None}
            options = {name: x for name, x in options.items() if x is not None}
            predictor = eseg_jax.load(args.path, weights=args.weights, **options)
            print(f"{predictor.checkpoint}, {args.weights}: {predictor.protocol}")
            make(predictor, images, args.out)
            path, names = args.out, list(images)
        else:
            path, names = args.zip, None
            if args.root or os.environ.get(cityscapes.FINE.root_variable):
                names = list(find_images(args.root, args.split))
        found = problems(path, names, cityscapes.FINE.sizes[args.split])
    except (ValueError, OSError) as error:
        if os.environ.get("ESEG_JAX_TRACEBACK"):
            raise
        print(f"eseg_jax: {error}", file=sys.stderr)
        return 2
    for problem in found:
        print(f"PROBLEM: {problem}")
    against = "" if names is None else f", against {len(names)} {args.split} images"
    print(f"{path}: {len(found)} problems{against}")
    return 1 if found else 0


def find_images(root: str, split: str) -> dict[str, str]:
    """{`<city>_<sequence>_<frame>`: path} of a split's images; InputError if none."""
    folder, _ = datasets.open_root(cityscapes.FINE, root)
    suffix = "_leftImg8bit.png"
    paths = sorted(folder.glob(f"leftImg8bit/{split}/*/*{suffix}"))
    if not paths:
        raise datasets.InputError(
            f"There is no image in {folder}/leftImg8bit/{split}; unpack "
            "leftImg8bit_trainvaltest.zip there."
        )
    return {path.name.removesuffix(suffix): str(path) for path in paths}


def make(predictor, images: dict[str, str], out: pathlib.Path) -> None:
    """Writes the zip; it appears under its name once complete.

    Raises:
      ValueError: the network has other classes, or an image cannot be read.
    """
    if predictor.class_names != cityscapes.CLASS_NAMES:
        raise ValueError(
            f"{predictor.checkpoint} predicts {len(predictor.class_names)} classes, "
            f"{', '.join(predictor.class_names[:3])} …, not Cityscapes' 19; submit a "
            "network trained on Cityscapes."
        )
    ids = label_ids()
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    items = [Item(path, name) for name, path in images.items()]
    try:
        with (
            concurrent.futures.ThreadPoolExecutor(2) as pool,
            zipfile.ZipFile(partial, "w") as archive,
        ):
            read = progress(read_ahead(pool, items), len(items), "images")
            for item, image in read:
                if isinstance(image, Exception):
                    raise ValueError(
                        f"Image {item.path} cannot be read ({image}); a submission "
                        "needs every image, so replace the file."
                    )
                name = f"{item.name}_pred_labelIds.png"
                archive.writestr(name, png(ids[predictor(image).labels]))
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)


def label_ids() -> np.ndarray:
    """uint8 [19]: the label id of every train id."""
    table = {train: label for label, train in cityscapes.LABEL_IDS.items()}
    return np.array([table[i] for i in range(len(cityscapes.CLASS_NAMES))], np.uint8)


def problems(path: pathlib.Path, names: list[str] | None, count: int) -> list[str]:
    """What the server would refuse or score as wrong, one sentence each.

    Args:
      path: of the zip.
      names: the images it must hold; None when they are not at hand.
      count: how many images the official split has, checked when `names` is None.
    """
    found: list[str] = []
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        return [f"{path} is no zip file ({error}); make it again."]
    with archive:
        files = [info.filename for info in archive.infolist() if not info.is_dir()]
        by_image = collections.defaultdict(list)
        others = []
        for file in files:
            base = file.rpartition("/")[2]
            match = _NAME.match(base)
            known = match and (names is None or match[0] in names)
            if known and base.endswith(".png"):
                by_image[match[0]].append(file)
            else:
                others.append(file)
        if others:
            found.append(
                f"{_some(others)} belong to no image: names are "
                "<city>_<sequence>_<frame>*.png, each number of six digits, as in "
                "berlin_000000_000019_pred_labelIds.png."
            )
        for image, twice in by_image.items():
            if len(twice) > 1:
                found.append(f"{image} has {len(twice)} files: {_some(twice)}.")
        missing = [name for name in names or () if name not in by_image]
        if missing:
            found.append(f"{len(missing)} images have no file: {_some(missing)}.")
        if names is None and len(by_image) != count:
            found.append(f"There are files for {len(by_image)} images, not {count}.")
        by_reason = collections.defaultdict(list)
        for file in progress(files, len(files), "files"):
            if file.endswith(".png") and (reason := _problem(archive, file)):
                by_reason[reason].append(file)
    found += [f"{_some(group)}: {reason}" for reason, group in by_reason.items()]
    return found


def _problem(archive: zipfile.ZipFile, file: str) -> str | None:
    """What is wrong with one PNG, in words that many files can share."""
    try:
        with Image.open(io.BytesIO(archive.read(file))) as opened:
            mode, pixels = opened.mode, np.asarray(opened)
    except (OSError, SyntaxError, zipfile.BadZipFile) as error:
        return f"cannot be read ({str(error).split('<')[0].strip()})."
    if mode != "L":
        return f"is a picture of mode {mode}; it must have one channel of 8 bits."
    if pixels.shape != SIZE:
        height, width = pixels.shape
        return f"is {width}x{height}; it must be {SIZE[1]}x{SIZE[0]}."
    ids = set(np.unique(pixels).tolist())
    wrong = sorted(ids - set(label_ids().tolist()))
    if not wrong:
        return None
    if ids <= {*range(19), 255}:
        return "holds train ids; the server wants label ids (road is 7, car is 26)."
    return f"holds ids that are not evaluated, such as {wrong[0]}."


def _some(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


if __name__ == "__main__":
    sys.exit(main())

"""Checks the dataset of a configuration, file by file.

  python -m eseg_jax.tools.check_dataset --config=configs/eseg_lite_s.py:camvid

Finds a wrong layout, images without label and labels without image, unreadable files,
label formats and ids that training would refuse, labels of another size than their
image, and prints how often each class occurs. Ends with 1 when something is wrong.
Decodes with Pillow, which has nothing in common with the decoders training uses.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import io
import itertools
import os

import numpy as np
from absl import app
from etils import epath
from ml_collections import config_flags
from PIL import Image

from eseg_jax import input as eseg_input
from eseg_jax.input import class_folders, datasets
from eseg_jax.input.datasets import DatasetInfo, Example, InputError, LabelKind
from eseg_jax.tools.terminal import progress

_SHOWN = 5  # problems of one split that are printed
_SCENES = 1000  # built-in scenes that are drawn of a split


@dataclasses.dataclass
class Report:
    """What was found of one split.

    Attributes:
      problems: one sentence each.
      sizes: (height, width) -> number of labels.
      pixels: int64 [256], pixels of each train id.
      notes: worth knowing, not wrong.
    """

    problems: list[str] = dataclasses.field(default_factory=list)
    sizes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    pixels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, int))
    notes: list[str] = dataclasses.field(default_factory=list)

    def add(self, label_size: tuple[int, int], pixels: np.ndarray) -> None:
        self.sizes[label_size] += 1
        self.pixels += pixels


def check_example(
    info: DatasetInfo, kind: LabelKind, example: Example
) -> tuple[str | None, tuple[int, int], np.ndarray]:
    """Decodes one pair.

    Returns:
      The problem as a sentence or None, the label's (height, width), and int64 [256]:
      its pixels of each train id. Without a readable label, (0, 0) and zeros.
    """
    nothing = (0, 0), np.zeros(256, int)
    data = {}
    for what, path in (("Label", example.label), ("Image", example.image)):
        try:
            data[what] = epath.Path(path).read_bytes()
        except OSError as error:
            return f"{what} {path} cannot be read: {error.strerror}.", *nothing
    problem = datasets.label_format_problem(kind, example.label, data["Label"])
    if problem:
        return problem, *nothing
    label = _decode(data["Label"])
    if label is None:
        return datasets.damaged_problem("Label", example.label, data["Label"]), *nothing
    ids = _count_ids(label, kind)
    pixels = np.zeros(256, int)
    np.add.at(pixels, kind.table(), ids)

    problem = datasets.image_format_problem(example.image, data["Image"])
    if problem is None:
        image = _decode(data["Image"])
        if image is None:
            problem = datasets.damaged_problem("Image", example.image, data["Image"])
        else:
            problem = datasets.size_problem(example, image.size[::-1], label.size[::-1])
    problem = problem or datasets.ids_problem(
        info, kind, example.label, np.flatnonzero(ids).tolist()
    )
    return problem, label.size[::-1], pixels


def check_split(config, split: str) -> Report:
    """Checks every file of a split on all cores; shows progress on stderr."""
    info = eseg_input.dataset_info(config)
    if eseg_input.is_classification(config):
        return _check_classes(config, info, split)
    if info.layout is None:
        return _check_scenes(config, split)
    report = Report()
    try:
        found = datasets.scan_split(info, split, config.dataset.root)
    except InputError as error:
        report.problems.append(str(error))
        return report
    report.problems += [f"Label {path} is missing." for path in found.missing_labels]
    report.problems += [f"Image {path} is missing." for path in found.missing_images]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(
            check_example,
            itertools.repeat(info),
            itertools.repeat(found.kind),
            found.examples,
        )
        for problem, size, pixels in progress(results, len(found.examples), split):
            if problem:
                report.problems.append(problem)
            if size != (0, 0):
                report.add(size, pixels)
    report.notes.append(f"{split}: labels are {found.kind.name}")
    parts = datasets.parts_of(info, split)
    official = sum(info.sizes.get(part, 0) for part in parts)
    here = len(found.examples)
    if official and here != official:
        report.notes.append(f"{split}: {here} examples, the official split {official}")
    return report


def check(config) -> int:
    """Checks the training and the evaluation split, prints, returns the problems."""
    info = eseg_input.dataset_info(config)
    splits = dict.fromkeys((config.dataset.train_split, config.dataset.eval_split))
    reports = {split: check_split(config, split) for split in splits}

    print(f"{info.name}: {info.num_classes} classes")
    if info.layout is not None:
        root, source = datasets.find_root(info, config.dataset.root)
        print(f"root: {root} ({source})")
    print()
    rows = [("split", "examples", "problems", "sizes (width x height)")]
    for split, report in reports.items():
        sizes = [
            f"{width}x{height}: {count}"
            for (height, width), count in report.sizes.most_common(3)
        ] + ["…"] * (len(report.sizes) > 3)
        examples, problems = sum(report.sizes.values()), len(report.problems)
        rows.append((split, str(examples), str(problems), ", ".join(sizes)))
    _print_table(rows)

    print()
    rows = [("class", *(f"{split} %" for split in reports))]
    names = dict(enumerate(info.class_names))
    if not eseg_input.is_classification(config):
        names[datasets.IGNORE] = "(ignored)"
    for train_id, name in names.items():
        shares = (
            100 * report.pixels[train_id] / max(report.pixels.sum(), 1)
            for report in reports.values()
        )
        rows.append((name, *(f"{share:.3f}" for share in shares)))
    _print_table(rows)

    print()
    for note in itertools.chain.from_iterable(r.notes for r in reports.values()):
        print(f"note: {note}")
    for split, report in reports.items():
        for problem in report.problems[:_SHOWN]:
            print(f"PROBLEM in {split}: {problem}")
        if len(report.problems) > _SHOWN:
            print(f"… and {len(report.problems) - _SHOWN} more problems in {split}.")
    total = sum(len(report.problems) for report in reports.values())
    print(f"{total} problems." if total else "No problems.")
    return total


def _check_scenes(config, split: str) -> Report:
    report = Report()
    count = eseg_input.num_examples(config, split)
    shown = min(count, _SCENES)
    for index in progress(range(shown), shown, split):
        _, label = eseg_input.draw_scene(config, split, index)
        report.add(label.shape, np.bincount(label.ravel(), minlength=256))
    if shown < count:
        report.notes.append(f"{split}: the first {shown} of {count} scenes")
    return report


def _check_classes(config, info: DatasetInfo, split: str) -> Report:
    """Images with one class each: decodes them, and counts images for pixels."""
    if config.dataset.name != "class_folders":
        raise InputError(
            f"{config.dataset.name} has no files of its own to check; TensorFlow "
            "Datasets checked them when it prepared them."
        )
    report = Report(pixels=np.zeros(max(256, info.num_classes), int))
    paths, labels = class_folders.list_images(config, split)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = pool.map(_image_size, paths)
        found = zip(paths, labels, progress(sizes, len(paths), split), strict=True)
        for path, label, size in found:
            if size is None:
                report.problems.append(f"Image {path} is damaged or no PNG or JPEG.")
            else:
                report.sizes[size] += 1
                report.pixels[label] += 1
    return report


def _image_size(path: str) -> tuple[int, int] | None:
    image = _decode(epath.Path(path).read_bytes())
    return image and image.size[::-1]


def _count_ids(label: Image.Image, kind: LabelKind) -> np.ndarray:
    """int64 [256], pixels of each id; palettes count by index."""
    if not kind.colours:
        return np.array(label.histogram())
    ids = {colour: label_id for label_id, colour in enumerate(kind.colours)}
    counts = np.zeros(256, int)
    label = label.convert("RGB")
    for count, colour in label.getcolors(label.width * label.height):
        counts[ids.get(colour, datasets.OTHER_COLOUR)] += count
    return counts


def _decode(data: bytes) -> Image.Image | None:
    """The decoded image, or None when Pillow cannot read it to the end."""
    try:
        # Of a PNG, load() looks neither at checksums nor at what follows the pixels,
        # and verify() not at the checksum of the last chunk; TensorFlow does.
        Image.open(io.BytesIO(data)).verify()
        if data.startswith(b"\x89PNG") and b"IEND\xaeB`\x82" not in data:
            return None
        image = Image.open(io.BytesIO(data))
        image.load()
    # Pillow's plugins raise whatever damaged data makes them stumble over: OSError,
    # SyntaxError, ValueError, struct.error, zlib.error, …
    except Exception:
        return None
    return image


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width)
            if cell[:1].isdigit() or cell.endswith(" %")
            else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; all are --flag=value.")
    try:
        return 1 if check(_CONFIG.value) else 0
    except InputError as error:
        print(f"PROBLEM: {error}")
        return 1


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file(
        "config",
        help_string="Configuration file; --config.x=y changes a field.",
        lock_config=True,
    )
    app.run(main)

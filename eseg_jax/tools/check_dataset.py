"""Checks the dataset of a configuration, file by file or record by record.

  python -m eseg_jax.tools.check_dataset --config=configs/eseg_lite_s.py:camvid

Finds a wrong layout, images without label and labels without image, unreadable files,
label formats and ids that training would refuse, labels of another size than their
image, masks of instances where classes are expected, another protocol of CamVid than
the configured one and Kaggle's split of it. Prints how often each class occurs and
draws a sheet of examples to look at. Ends with 1 when something is wrong. Decodes with
Pillow, which has nothing in common with the decoders training uses.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import io
import itertools
import os
from collections.abc import Callable, Sequence

import numpy as np
from absl import app, flags
from etils import epath
from ml_collections import config_flags
from PIL import Image, ImageDraw

from eseg_jax import input as eseg_input
from eseg_jax.input import class_folders, datasets
from eseg_jax.input.datasets import (
    DatasetInfo,
    Example,
    InputError,
    LabelKind,
    camvid,
)
from eseg_jax.report.progress import progress

_SHOWN = 5  # problems of one split that are printed
_SCENES = 1000  # built-in scenes that are drawn of a split
_MANY_CLASSES, _MANY_LABELS = 20, 10  # from which ids 1, 2, 3, … are suspicious
_SHEET_ROWS = 4  # examples of a split
_SHEET_WIDTH, _LEGEND_WIDTH, _LINE = 400, 200, 18  # pixels

_PROTOCOLS = {
    "camvid": "480x360 index labels of 11 classes (SegNet)",
    "camvid_720": "960x720 colour labels, 11 exact colours and no others (PIDNet)",
    "camvid_720_merged": "960x720 colour labels, 31 classes merged into 11",
}

# An example's image and label, as bytes; InputError when they cannot be read.
Read = Callable[[Example], tuple[bytes, bytes]]


@dataclasses.dataclass
class Report:
    """What was found of one split.

    Attributes:
      problems: one sentence each.
      sizes: (height, width) -> number of labels.
      pixels: int64 [256], pixels of each train id.
      notes: worth knowing, not wrong.
      samples: (example, kind of label, how to read it) for the contact sheet.
    """

    problems: list[str] = dataclasses.field(default_factory=list)
    sizes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    pixels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, int))
    notes: list[str] = dataclasses.field(default_factory=list)
    samples: list[tuple] = dataclasses.field(default_factory=list)

    def add(self, label_size: tuple[int, int], pixels: np.ndarray) -> None:
        self.sizes[label_size] += 1
        self.pixels += pixels


def read_files(example: Example) -> tuple[bytes, bytes]:
    """The bytes of an example's image and label; InputError when there are none."""
    data = {}
    for what, path in (("Label", example.label), ("Image", example.image)):
        try:
            data[what] = epath.Path(path).read_bytes()
        except OSError as error:
            raise InputError(
                f"{what} {path} cannot be read: {error.strerror}."
            ) from None
    return data["Image"], data["Label"]


def check_example(
    info: DatasetInfo, kind: LabelKind, example: Example, read: Read = read_files
) -> tuple[str | None, tuple[int, int], np.ndarray]:
    """Decodes one pair.

    Returns:
      The problem as a sentence or None, the label's (height, width), and int64 [256]:
      its pixels of each id. Without a readable label, (0, 0) and zeros.
    """
    nothing = (0, 0), np.zeros(256, int)
    try:
        image_data, label_data = read(example)
    except InputError as error:
        return str(error), *nothing
    problem = datasets.label_format_problem(kind, example.label, label_data)
    if problem:
        return problem, *nothing
    label = _decode(label_data)
    if label is None:
        return datasets.damaged_problem("Label", example.label, label_data), *nothing
    pixels = np.bincount(_ids(label, kind).ravel(), minlength=256)

    problem = datasets.image_format_problem(example.image, image_data)
    if problem is None:
        image = _decode(image_data)
        if image is None:
            problem = datasets.damaged_problem("Image", example.image, image_data)
        else:
            problem = datasets.size_problem(example, image.size[::-1], label.size[::-1])
    problem = problem or datasets.ids_problem(
        info, kind, example.label, np.flatnonzero(pixels).tolist()
    )
    return problem, label.size[::-1], pixels


def check_split(config, split: str) -> Report:
    """Checks every example of a split on all cores; shows progress on stderr."""
    report = Report()
    try:
        info = eseg_input.dataset_info(config)
        if eseg_input.is_classification(config):
            return _check_classes(config, info, split)
        if info.layout is None:
            return _check_scenes(config, split)
        found, read = _scan(config, info, split)
    except InputError as error:
        report.problems.append(str(error))
        return report
    report.problems += [f"Label {path} is missing." for path in found.missing_labels]
    report.problems += [f"Image {path} is missing." for path in found.missing_images]
    table = found.kind.table()
    present = []  # the ids in each label
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(
            lambda example: check_example(info, found.kind, example, read),
            found.examples,
        )
        for problem, size, pixels in progress(results, len(found.examples), split):
            if problem:
                report.problems.append(problem)
            if size != (0, 0):
                train_pixels = np.zeros(256, int)
                np.add.at(train_pixels, table, pixels)
                report.add(size, train_pixels)
                present.append(set(np.flatnonzero(pixels).tolist()))
    report.problems += filter(
        None, [_instances_problem(info, split, present), _camvid_problem(info, report)]
    )
    report.problems += _split_problems(info, split, found.examples)
    report.notes.append(f"{split}: labels are {found.kind.name}")
    parts = datasets.parts_of(info, split)
    official = sum(info.sizes.get(part, 0) for part in parts)
    here = len(found.examples)
    if official and here != official:
        report.notes.append(f"{split}: {here} examples, the official split {official}")
    report.samples = [
        (example, found.kind, read)
        for example in found.examples[:: max(1, here // _SHEET_ROWS)][:_SHEET_ROWS]
    ]
    return report


def _scan(config, info: DatasetInfo, split: str) -> tuple[datasets.Split, Read]:
    """What there is of a split, and how its bytes are read."""
    root = config.dataset.root
    if not datasets.from_records(config.dataset):
        return datasets.scan_split(info, split, root), read_files
    # Here, so that looking at files does not need TensorFlow.
    from eseg_jax.input import tfds_source

    records, kind = tfds_source.list_split(info, split, root)
    examples = tuple(Example(r.id, str(r), str(r)) for r in records)
    by_example = dict(zip(examples, records, strict=True))

    def read(example: Example) -> tuple[bytes, bytes]:
        data = tfds_source.read(by_example[example])
        image, label = tfds_source.image_and_label(data, info.records)
        return image.numpy(), label.numpy()

    return datasets.Split(examples, kind), read


# ------------------------------------------------------- what a whole split gives away


def _instances_problem(
    info: DatasetInfo, split: str, present: list[set[int]]
) -> str | None:
    """A sentence when the labels number objects, 1, 2, 3, …, instead of classes.

    Among many classes an image rarely holds just the first few, and a set never does.
    """
    if info.num_classes < _MANY_CLASSES or len(present) < _MANY_LABELS:
        return None
    counted = 0
    for ids in present:
        ids = ids - {0, datasets.IGNORE}
        counted += bool(ids) and ids == set(range(1, len(ids) + 1))
    if counted < 0.9 * len(present):
        return None
    return (
        f"In {counted} of {len(present)} labels of {info.name} split {split!r} the ids "
        "are 1, 2, 3, … without a gap: these are masks of instances (as VOC's "
        "SegmentationObject), not of classes; use the semantic ones."
    )


def _camvid_problem(info: DatasetInfo, report: Report) -> str | None:
    """A sentence when labels have another size than CamVid's protocol; notes which."""
    if not info.name.startswith("camvid") or not report.sizes:
        return None
    ((height, width), _), *_ = report.sizes.most_common(1)
    expected = (360, 480) if info.name == "camvid" else (720, 960)
    report.notes.append(f"CamVid protocol {info.name}: {_PROTOCOLS[info.name]}")
    if (height, width) == expected:
        return None
    if info.name == "camvid" and (height, width) == (720, 960):
        what = "index labels enlarged from 480x360, as in PaddleSeg's camvid.tar,"
    else:
        what = f"labels of {width}x{height}"
    return (
        f"CamVid protocol {info.name} has labels of {expected[1]}x{expected[0]}, but "
        f"these are {what} with which scores compare to no paper's; take the originals."
    )


def _split_problems(
    info: DatasetInfo, split: str, examples: Sequence[Example]
) -> list[str]:
    """A sentence when CamVid images are in another part than in the benchmark."""
    if not info.name.startswith("camvid"):
        return []
    parts = datasets.parts_of(info, split)
    wrong = [
        example.id
        for example in examples
        if camvid.part_of(example.id) not in (None, *parts)
    ]
    return [_wrong_split(split, wrong, len(examples))] if wrong else []


def _wrong_split(split: str, wrong: list[str], total: int) -> str:
    return (
        f"{len(wrong)} of {total} images of {split!r} belong to another part of the "
        f"benchmark ({datasets.first_few(wrong)}), as in Kaggle's copy, which deals "
        "the frames of one video to training and test: its scores are too high; use "
        "SegNet's split, which camvid_720 knows by the names of the files."
    )


def _look_around(info: DatasetInfo, root: epath.Path) -> list[str]:
    """What a folder looks like that is not in the layout of a CamVid protocol."""
    if not info.name.startswith("camvid") or not root.is_dir():
        return []
    found = []
    if (root / "train_labels").is_dir():
        for part in ("train", "val", "test"):
            names = sorted(path.stem for path in (root / part).glob("*.png"))
            wrong = [name for name in names if camvid.part_of(name) != part]
            if wrong:
                found.append(_wrong_split(part, wrong, len(names)))
    protocols = {
        "camvid": (root / "trainannot").is_dir(),
        "camvid_720 and camvid_720_merged": any(root.glob("labels/*_L.png")),
    }
    found += [
        f"{root} is laid out as {name}; set config.dataset.name."
        for name, here in protocols.items()
        if here and info.name not in name.split(" and ")
    ]
    return found


# ------------------------------------------------------------------- the contact sheet


def contact_sheet(info: DatasetInfo, reports: dict[str, Report]) -> Image.Image:
    """Examples of each split: image, label, and both blended; the classes below."""
    rows = []
    for split, report in reports.items():
        for example, kind, read in report.samples:
            try:
                image, label = (_decode(data) for data in read(example))
            except InputError:
                continue
            if image is not None and label is not None and image.size == label.size:
                rows.append((f"{split} {example.id}", image, label, kind))
    width = _SHEET_WIDTH
    heights = [round(width * image.height / image.width) for _, image, _, _ in rows]
    columns = 3 * width // _LEGEND_WIDTH
    legend_rows = -(-info.num_classes // columns)
    height = sum(heights) + _LINE * (len(rows) + legend_rows)
    sheet = Image.new("RGB", (3 * width, height), "white")
    draw = ImageDraw.Draw(sheet)
    palette = np.zeros((256, 3), np.uint8)
    palette[: info.num_classes] = info.colours
    top = 0
    for (title, image, label, kind), row_height in zip(rows, heights, strict=True):
        draw.text((4, top + 2), title, fill="black")
        top += _LINE
        image = image.convert("RGB").resize((width, row_height))
        colours = Image.fromarray(palette[kind.table()[_ids(label, kind)]])
        colours = colours.resize((width, row_height), Image.Resampling.NEAREST)
        panels = (image, colours, Image.blend(image, colours, 0.5))
        for column, panel in enumerate(panels):
            sheet.paste(panel, (column * width, top))
        top += row_height
    for number, name in enumerate(info.class_names):
        left, line = number % columns * _LEGEND_WIDTH, number // columns
        y = top + line * _LINE
        colour = tuple(info.colours[number].tolist())
        draw.rectangle((left + 4, y + 3, left + 20, y + _LINE - 3), colour, "black")
        draw.text((left + 26, y + 2), name, fill="black")
    return sheet


# ------------------------------------------------------------------------- the command


def check(config, sheet: str = "") -> int:
    """Checks the training and the evaluation split, prints, returns the problems.

    Args:
      config: the configuration.
      sheet: where the contact sheet is written; "" for nowhere.
    """
    info = eseg_input.dataset_info(config)
    splits = dict.fromkeys((config.dataset.train_split, config.dataset.eval_split))
    reports = {split: check_split(config, split) for split in splits}

    print(f"{info.name}: {info.num_classes} classes")
    around = []
    if info.layout is not None and datasets.from_records(config.dataset):
        print(f"records: {datasets.find_records(info, config.dataset.root)}")
    elif info.layout is not None:
        root, source = datasets.find_root(info, config.dataset.root)
        print(f"root: {root} ({source})")
        around = _look_around(info, root)
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
    notes = itertools.chain.from_iterable(r.notes for r in reports.values())
    for note in dict.fromkeys(notes):
        print(f"note: {note}")
    if sheet and any(report.samples for report in reports.values()):
        contact_sheet(info, reports).save(sheet)
        print(f"note: look at {sheet}: do image and label belong together?")
    for problem in around:
        print(f"PROBLEM: {problem}")
    for split, report in reports.items():
        for problem in report.problems[:_SHOWN]:
            print(f"PROBLEM in {split}: {problem}")
        if len(report.problems) > _SHOWN:
            print(f"… and {len(report.problems) - _SHOWN} more problems in {split}.")
    total = len(around) + sum(len(report.problems) for report in reports.values())
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


def _ids(label: Image.Image, kind: LabelKind) -> np.ndarray:
    """uint8 [h, w] of the ids; those of a palette are its indices."""
    if not kind.colours:
        return np.array(label)
    pixels = np.array(label.convert("RGB"), np.int32) @ np.array([1 << 16, 1 << 8, 1])
    ids = np.full(pixels.shape, datasets.OTHER_COLOUR, np.uint8)
    for label_id, (r, g, b) in enumerate(kind.colours):
        ids[pixels == (r << 16) + (g << 8) + b] = label_id
    return ids


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
        return 1 if check(_CONFIG.value, _SHEET.value) else 0
    except InputError as error:
        print(f"PROBLEM: {error}")
        return 1


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file(
        "config",
        help_string="Configuration file; --config.x=y changes a field.",
        lock_config=True,
    )
    _SHEET = flags.DEFINE_string(
        "contact_sheet",
        "contact_sheet.png",
        help="Where to write the sheet of examples; empty for nowhere.",
    )
    app.run(main)

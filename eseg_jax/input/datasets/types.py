"""What a dataset is made of: label kinds, layouts, the row itself, examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

IGNORE = 255  # the train id of a pixel that enters neither loss nor metric
OTHER_COLOUR = 255  # the id of a pixel whose colour a colour label does not list


class InputError(ValueError):
    """Something is wrong with the data; the message is one sentence for the user."""


class LayoutError(InputError):
    """Nothing of a part of a dataset is where its layout puts it."""


@dataclasses.dataclass(frozen=True)
class LabelKind:
    """One kind of label file: PNGs of 8-bit ids, or of colours that stand for ids.

    Attributes:
      name: what users call it, e.g. "labelIds"; used in messages.
      path: where the file lies below the root; see `Tree`.
      mapping: id in the file -> train id. An id that is not listed is an error.
      colours: empty for PNGs of ids; else the RGB colour of id 0, 1, …, and every
        other colour has the id `OTHER_COLOUR`.
    """

    name: str
    path: str
    mapping: Mapping[int, int]
    colours: tuple[tuple[int, int, int], ...] = ()

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
    split, every other {name} stands for one path component or a part of it, and "*" of
    the image for anything without a "/"; what a {name} matched in the image's path
    fills the label's. {id} names the example.

    Attributes:
      image: the pattern.
      part_of: example id -> its part, or None for none, where no folder says it.
    """

    image: str
    part_of: Callable[[str], str | None] | None = None


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


@dataclasses.dataclass(frozen=True)
class IdLists:
    """Layout: text files with one {id} a line, for the patterns of image and label."""

    file: str
    image: str


@dataclasses.dataclass(frozen=True)
class Records:
    """Where TFDS keeps the dataset once it is prepared, and how its records are made.

    Attributes:
      folder: below TFDS' data_dir, NAME or NAME/CONFIG.
      command: what prepares it.
      id, image, label: the features with the name and with the bytes of the files.
      kind: the kind of label file; "" when the feature "kind" says it.
      splits: part -> TFDS split, where the names differ.
    """

    folder: str
    command: str
    id: str = "id"
    image: str = "image"
    label: str = "label"
    kind: str = ""
    splits: Mapping[str, str] = dataclasses.field(default_factory=dict)


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
      root_variable: environment variable that holds the root, "NAME_DATASET"; without
        one the root is datasets/name.
      where_to_get: where to download it and how to unpack it, for messages.
      licence: in short.
      records: where TFDS keeps it; None when no builder prepares it.
      complete: None, or (row, config.dataset) -> row with the classes and labels that
        only the configuration or a file of the dataset knows.
    """

    name: str
    class_names: tuple[str, ...] = ()
    colours: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros((0, 3), np.uint8)
    )
    labels: tuple[LabelKind, ...] = ()
    layout: Tree | PairLists | IdLists | None = None
    splits: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    root_variable: str = ""
    where_to_get: str = ""
    licence: str = ""
    records: Records | None = None
    complete: Callable[[DatasetInfo, Any], DatasetInfo] | None = None

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def built_by(name: str, config: str = "") -> Records:
    """The records of one of the builders in data/."""
    option = f" --config={config}" if config else ""
    return Records(
        folder="/".join(filter(None, (name, config))),
        command=f"tfds build data/{name} --manual_dir=FOLDER{option}",
    )


def from_records(dataset) -> bool:
    """Whether config.dataset is read from TFDS records rather than from files."""
    source = dataset.get("source", "files")
    if source not in ("files", "tfds"):
        raise InputError(
            f"config.dataset.source={source!r} is no source; choose 'files' or 'tfds'."
        )
    return source == "tfds"


@dataclasses.dataclass(frozen=True)
class Example:
    """One image and its label file ("" for none); paths may lie in a bucket."""

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

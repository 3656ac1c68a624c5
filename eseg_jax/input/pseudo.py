"""Folders of pseudo-labels, as `--mode=pseudo_label` writes them.

    labels/NAME.png      uint8 train ids, 255 where the teacher was not sure enough
    argmax/NAME.png      uint8 train ids everywhere
    confidence/NAME.png  uint8, the probability p of argmax as floor(255 * p + 0.5)
    images/NAME.png      only where the images exist in no other file
    manifest.jsonl       a line for each image, in order
    pseudo.json          the teacher, what it was trained on, thresholds, coverage
    contact_sheet.png

With config.pseudo.shard_images, records/NUMBER.tfrecord hold the images and answers of
so many lines of the manifest each, in place of the four folders; see `pseudo_records`.

NAME mirrors the image's path without its suffix. A pixel is kept where its confidence
byte is above 255 * threshold. That is the rule everywhere, so labels made later from
the stored bytes equal those the teacher would write. The bytes are off by 1/510 at
most; at the threshold 0.5 the rule is p >= 0.5 exactly.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from eseg_jax.input import datasets
from eseg_jax.input.datasets import IGNORE, Example, InputError, LabelKind

CONFIDENCE = LabelKind("confidence", "", {i: i for i in range(256)})
_SEED_APART = 1 << 40  # between the streams of true labels and of pseudo-labels


def level(threshold: float) -> int:
    """The lowest confidence byte above 255 * threshold; 256, which none is, for 1."""
    # 1e-9: 255 * (k / 255) may come out a little below k.
    return math.floor(255 * threshold + 1e-9) + 1


def levels(threshold: float, class_thresholds: Sequence[float], classes: int):
    """int [c]: the lowest byte that each class keeps.

    Args:
      threshold: of every class, in [0, 1].
      class_thresholds: empty, or one for each class, in place of `threshold`.
      classes: c.
    """
    each = list(class_thresholds) or [threshold] * classes
    if len(each) != classes:
        raise InputError(
            f"There are {len(each)} class thresholds and {classes} classes; give one "
            "for each class, or none."
        )
    return np.array([level(t) for t in each])


def top_levels(histogram: np.ndarray, fraction: float) -> np.ndarray:
    """int [c]: the highest level at which a class keeps at least the fraction.

    Confidence comes in 256 steps, and often many pixels share the highest: more than
    the fraction is kept then.

    Args:
      histogram: int [c, 256], pixels of each class and confidence byte.
      fraction: of the pixels that are predicted as the class, in (0, 1].
    """
    at_least = histogram[:, ::-1].cumsum(axis=1)[:, ::-1]  # pixels at a level or above
    enough = at_least >= fraction * at_least[:, :1]
    return 255 - enough[:, ::-1].argmax(axis=1)


def keep(argmax: np.ndarray, confidence: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """uint8 [h, w]: argmax, 255 where the confidence is below the class's level."""
    kept = confidence >= np.asarray(levels, np.int16)[argmax]
    return np.where(kept, argmax, np.uint8(IGNORE))


def read_meta(folder) -> dict[str, Any]:
    """What pseudo.json says of a finished folder; InputError for any other."""
    path = epath.Path(folder).expanduser() / "pseudo.json"
    if not path.exists():
        raise InputError(
            f"{folder} holds no pseudo.json; make pseudo-labels with "
            "python -m eseg_jax.main --mode=pseudo_label."
        )
    meta = json.loads(path.read_text())
    if "coverage" not in meta:
        raise InputError(
            f"The pseudo-labels in {folder} are not complete; the command that began "
            "them goes on where it stopped."
        )
    return meta


def read_manifest(folder) -> list[dict[str, Any]]:
    """The records of a finished folder's images; those of broken ones have "broken"."""
    text = (epath.Path(folder).expanduser() / "manifest.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def read_answer(store, line: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """argmax and confidence, uint8 [h, w], of an image of the manifest."""
    names = ("argmax", "confidence")
    if "shard" in line:
        from eseg_jax.input import pseudo_records

        record = pseudo_records.read(store, line)
        return tuple(_grey(record[name]) for name in names)
    file = f"{line['name']}.png"
    return tuple(_grey((epath.Path(store) / x / file).read_bytes()) for x in names)


def _grey(data: bytes) -> np.ndarray:
    """uint8 [h, w] of a grey PNG."""
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened)


# -------------------------------------------------------------------------- the student


def label_kind(classes: int) -> LabelKind:
    """Of labels/ and argmax/."""
    mapping = {i: i for i in range(classes)} | {IGNORE: IGNORE}
    return LabelKind("pseudo-labels", "", mapping)


@dataclasses.dataclass(frozen=True)
class Folder:
    """The good images of config.dataset.pseudo.

    Attributes:
      folder: of the labels.
      store: of the answers: labels of another threshold lie in a folder of their own,
        see tools.rethreshold.
      root: of the images that are in files.
      levels: the lowest byte that each class keeps.
      lines: of the manifest.
    """

    folder: epath.Path
    store: epath.Path
    root: epath.Path
    levels: tuple[int, ...]
    lines: tuple[dict[str, Any], ...]

    @property
    def in_shards(self) -> bool:
        return "shard" in self.lines[0]

    def files(self, *, answers: bool) -> tuple[list[Example], list[str]]:
        """Images with labels, or with argmax for `answers`; and their confidences."""
        labels = self.store / "argmax" if answers else self.folder / "labels"
        examples, confidences = [], []
        for line in self.lines:
            file = f"{line['name']}.png"
            image = self.root / line["image"]
            image = image if line["image"] else self.store / "images" / file
            examples.append(Example(line["name"], str(image), str(labels / file)))
            confidences.append(str(self.store / "confidence" / file))
        return examples, confidences


def open_folder(dataset) -> Folder:
    """Reads config.dataset.pseudo; `pseudo_root`, if set, is where the images are."""
    folder = epath.Path(dataset.pseudo).expanduser()
    meta = read_meta(folder)
    return Folder(
        folder,
        epath.Path(meta.get("store", folder)),
        epath.Path(dataset.pseudo_root or meta["root"]).expanduser(),
        tuple(each["level"] for each in meta["classes"].values()),
        tuple(line for line in read_manifest(folder) if "broken" not in line),
    )


def stream_configs(config, process_count: int) -> tuple[Any, Any]:
    """The configurations of the two streams that `mix` makes one of."""
    size, fraction = config.input.batch_size, config.input.pseudo_fraction
    guessed = round(size * fraction)
    if (
        abs(guessed - size * fraction) > 1e-6
        or not 0 < guessed < size
        or guessed % process_count
        or size % process_count
    ):
        raise InputError(
            f"config.input.pseudo_fraction={fraction} of config.input.batch_size="
            f"{size} is no whole number of images for each of {process_count} "
            "processes; change one of them."
        )
    of_true, of_pseudo = (config.copy_and_resolve_references() for _ in range(2))
    of_true.input.batch_size = size - guessed
    of_pseudo.input.batch_size = guessed
    of_pseudo.input.class_uniform = 0.0  # its table is of the true labels
    of_pseudo.seed = config.seed + _SEED_APART
    return of_true, of_pseudo


def mix(true: Iterator[dict], guessed: Iterator[dict], fraction: float):
    """Batches with both: row r is a pseudo-label if floor(r * fraction) grows after it.

    So they are spread evenly over the rows, and with them over devices and processes,
    and what a row holds depends on its number, the step and the seed alone.
    """
    for a, b in zip(true, guessed, strict=True):
        size = len(a["id"]) + len(b["id"])
        steps = np.floor(np.arange(size + 1) * fraction + 1e-6).astype(int)
        # Places of the rows of `a` and then of `b` in the batch.
        order = np.argsort(np.diff(steps), kind="stable")
        batch = {}
        for name in ("image", "label"):
            batch[name] = np.empty((size, *a[name].shape[1:]), a[name].dtype)
            batch[name][order[: len(a["id"])]] = a[name]
            batch[name][order[len(a["id"]) :]] = b[name]
        ids = [*a["id"], *b["id"]]
        batch["id"] = [ids[i] for i in np.argsort(order)]
        yield batch


def check_unseen(meta: dict[str, Any], dataset) -> None:
    """InputError when the teacher knew what the student is measured on.

    A score on images that the teacher was trained on, or that it labelled for the
    student, says little about others.

    Args:
      meta: from `read_meta`.
      dataset: the student's config.dataset.
    """
    measured = {"dataset": dataset.name, "split": dataset.eval_split}
    measured["root"] = dataset.root
    for what, entries in (
        ("The teacher was trained on", meta["trained_on"]),
        ("The pseudo-labels are of", [meta["labelled"]]),
    ):
        for entry in entries:
            if _overlap(entry, measured):
                raise InputError(
                    f"{what} {entry['dataset']} {entry['split']!r}, and the student "
                    f"is to be measured on {dataset.name} {dataset.eval_split!r}, "
                    "which has the same images; choose another "
                    "--config.dataset.eval_split, or accept it with "
                    "--config.dataset.pseudo_may_know_eval=True."
                )


def _overlap(a: dict, b: dict) -> bool:
    """Whether two {"dataset", "split", "root"} share images, as far as rows tell."""
    if "split" not in a or a["dataset"] not in datasets.DATASETS:
        return False  # a folder of images, or classified ones: nobody knows

    def images(x):
        info = datasets.get(x["dataset"])
        # Rows of one dataset, such as fine and coarse labels, share a variable.
        family = info.root_variable or info.name
        if info is datasets.FOLDER:
            family += x.get("root", "")
        return {(family, part) for part in info.splits.get(x["split"], (x["split"],))}

    return bool(images(a) & images(b))

"""Image classification, for pre-training: which images there are, and their classes.

Two datasets, by config.dataset.name:

    class_folders  root/<split>/<class>/*.jpg, .jpeg or .png; the classes are the
                   folders of the training split
    imagenet2012   TensorFlow Datasets, prepared as array_record; root is its data_dir

Nothing here imports TensorFlow; `class_images` reads what is listed here.
"""

from __future__ import annotations

import functools
import os

import numpy as np
from etils import epath

from eseg_jax.input.datasets import DatasetInfo, InputError

NAMES = ("class_folders", "imagenet2012")
ROOT_VARIABLE = "CLASS_FOLDERS_DATASET"
_SUFFIXES = (".jpg", ".jpeg", ".png")
_IMAGENET_CLASSES = 1000
_IMAGENET_IMAGES = {"train": 1_281_167, "validation": 50_000}


def info(config) -> DatasetInfo:
    """The classes. ImageNet's have their number in the order of the WordNet ids."""
    if config.dataset.name == "imagenet2012":
        names = tuple(str(i) for i in range(_IMAGENET_CLASSES))
    else:
        root = _root(config.dataset.root)
        names = _classes(root, config.dataset.train_split)
    return DatasetInfo(config.dataset.name, names, np.zeros((len(names), 3), np.uint8))


def num_examples(config, split: str) -> int:
    """Number of images in a split; InputError when there are none."""
    if config.dataset.name == "imagenet2012":
        if split not in _IMAGENET_IMAGES:
            raise InputError(
                f"imagenet2012 has no split {split!r}; choose one of "
                f"{', '.join(_IMAGENET_IMAGES)}."
            )
        return _IMAGENET_IMAGES[split]
    return len(list_images(config, split)[0])


def list_images(config, split: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Paths, sorted by class and name, and int32 [n] classes of a split's images.

    Raises:
      InputError: the split has no images, or a class that the training split lacks.
    """
    root = _root(config.dataset.root)
    return _list_images(root, split, _classes(root, config.dataset.train_split))


def _root(configured: str) -> str:
    return configured or os.environ.get(ROOT_VARIABLE, "") or "datasets/class_folders"


@functools.cache
def _classes(root: str, split: str) -> tuple[str, ...]:
    folder = epath.Path(root).expanduser() / split
    if not folder.is_dir():
        raise InputError(
            f"There are no class folders: {folder} is not a folder; set "
            f"--config.dataset.root or {ROOT_VARIABLE} to the folder that has "
            f"{split}/<class>/*.jpg."
        )
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    if len(names) < 2:
        raise InputError(
            f"{folder} has {len(names)} class folder{'s' if len(names) != 1 else ''}; "
            "to learn classes there must be at least 2."
        )
    return names


@functools.cache
def _list_images(
    root: str, split: str, classes: tuple[str, ...]
) -> tuple[tuple[str, ...], np.ndarray]:
    found = _classes(root, split)
    if unknown := sorted(set(found) - set(classes)):
        raise InputError(
            f"Split {split!r} in {root} has the class folders {', '.join(unknown)}, "
            "which the training split lacks; rename or remove them."
        )
    paths, labels = [], []
    for number, name in enumerate(classes):
        folder = epath.Path(root).expanduser() / split / name
        images = [
            str(path)
            for path in sorted(folder.glob("*"))
            if path.suffix.lower() in _SUFFIXES
        ]
        paths += images
        labels += [number] * len(images)
    if not paths:
        raise InputError(
            f"The class folders of split {split!r} in {root} hold no image that ends "
            f"in {', '.join(_SUFFIXES)}."
        )
    return tuple(paths), np.array(labels, np.int32)

"""Scores of the Cityscapes benchmark beside mIoU: IoU of categories and instances.

Both follow cityscapesScripts' evalPixelLevelSemanticLabeling.py. A network predicts the
19 classes alone, so a 19 x 19 confusion matrix without ignored pixels holds the same
counts as its 34 x 34 one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "flat": ("road", "sidewalk"),
    "construction": ("building", "wall", "fence"),
    "object": ("pole", "traffic light", "traffic sign"),
    "nature": ("vegetation", "terrain"),
    "sky": ("sky",),
    "human": ("person", "rider"),
    "vehicle": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
}
# Class -> (id in instanceIds files, average size in pixels over the training set).
INSTANCES: Mapping[str, tuple[int, float]] = {
    "person": (24, 3462.4756337644),
    "rider": (25, 3930.4788056518),
    "car": (26, 12794.0202738185),
    "truck": (27, 27855.1264367816),
    "bus": (28, 35732.1511111111),
    "train": (31, 67583.7075812274),
    "motorcycle": (32, 6298.7200839748),
    "bicycle": (33, 4672.3249222261),
}
_BY_LABEL_ID = {i: (name, average) for name, (i, average) in INSTANCES.items()}
# Categories of nothing but instances have an iIoU too.
_INSTANCE_CATEGORIES = ("human", "vehicle")


def category_scores(matrix: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """IoU of the seven categories, from the classes' confusion matrix.

    Args:
      matrix: int64 [19, 19], rows are the truth.
      class_names: of the train ids.

    Returns:
      category_miou and category_iou {name: float or None}; fractions.
    """
    scores = {}
    for category, members in CATEGORIES.items():
        ids = [class_names.index(name) for name in members]
        hits = matrix[np.ix_(ids, ids)].sum()
        whole = matrix[ids].sum() + matrix[:, ids].sum() - hits
        scores[category] = _ratio(hits, whole)
    return {"category_miou": _mean(scores), "category_iou": scores}


def instance_file(label: str) -> str:
    """Path of the instances that belong to a label file of the official layout."""
    return re.sub(r"_label(Train)?Ids\.png$", "_instanceIds.png", label)


class InstanceCounts:
    """Pixels of instances that are found, each instance weighing the same.

    iIoU = iTP / (iTP + FP + iFN): an instance's pixels count
    average size of its class / its own size; FP are the plain ones.
    """

    def __init__(self, class_names: Sequence[str], files: Mapping[str, str]):
        """`class_names` of the train ids; `files` of instances by the images' ids."""
        self._class_names, self._files = tuple(class_names), files
        # Weighted pixels [class, {right, all}], and the same with any class of the
        # category counted as right.
        self.classes = np.zeros((len(class_names), 2))
        self.categories = np.zeros((len(class_names), 2))

    def add(self, name: str, prediction: np.ndarray) -> None:
        """Counts the image `name`, predicted as uint8 [h, w] of train ids.

        Raises:
          ValueError: the image's file of instances has another size.
        """
        with epath.Path(self._files[name]).open("rb") as file:
            instances = np.asarray(Image.open(file))
        if instances.shape != prediction.shape:
            raise ValueError(
                f"{self._files[name]} is {instances.shape[::-1]} and the prediction "
                f"{prediction.shape[::-1]} (width, height); replace the file."
            )
        # Label id * 1000 + number; a pixel of no single instance has the label id.
        values, which = np.unique(instances, return_inverse=True)
        cells = which.reshape(-1) * 256 + prediction.reshape(-1)
        counts = np.bincount(cells, minlength=len(values) * 256)
        for value, found in zip(values, counts.reshape(-1, 256), strict=True):
            if int(value) // 1000 not in _BY_LABEL_ID:
                continue
            class_name, average = _BY_LABEL_ID[int(value) // 1000]
            size = found.sum()
            weight = average / size
            row = self._class_names.index(class_name)
            category = next(m for m in CATEGORIES.values() if class_name in m)
            fellows = [self._class_names.index(other) for other in category]
            self.classes[row] += found[row] * weight, size * weight
            self.categories[row] += found[fellows].sum() * weight, size * weight

    def add_processes(self, total: Callable[[np.ndarray], np.ndarray]) -> None:
        """Adds the other processes' counts; `total` sums an array over them."""
        self.classes, self.categories = total(self.classes), total(self.categories)

    def scores(self, matrix: np.ndarray) -> dict[str, Any]:
        """instance_miou and instance_iou by class, and both by category.

        Args:
          matrix: int64 [19, 19] of the same images, rows are the truth.
        """
        names = self._class_names
        by_class = {}
        for name in INSTANCES:
            row = names.index(name)
            wrong = matrix[:, row].sum() - matrix[row, row]
            right, whole = self.classes[row]
            by_class[name] = _ratio(right, whole + wrong)
        by_category = {}
        for category in _INSTANCE_CATEGORIES:
            ids = [names.index(name) for name in CATEGORIES[category]]
            others = [i for i in range(len(names)) if i not in ids]
            wrong = matrix[np.ix_(others, ids)].sum()
            right, whole = self.categories[ids].sum(axis=0)
            by_category[category] = _ratio(right, whole + wrong)
        return {
            "instance_miou": _mean(by_class),
            "instance_iou": by_class,
            "category_instance_miou": _mean(by_category),
            "category_instance_iou": by_category,
        }


def _ratio(part, whole) -> float | None:
    return float(part) / float(whole) if whole else None


def _mean(scores: Mapping[str, float | None]) -> float | None:
    known = [value for value in scores.values() if value is not None]
    return sum(known) / len(known) if known else None

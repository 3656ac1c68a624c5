"""Class-uniform sampling: a share of the crops is drawn around rare classes.

As the code of SFNet's authors does (after Zhu et al., "Improving Semantic Segmentation
via Video Propagation and Label Relaxation"): every label is divided into tiles, and of
every class in a tile its centre of mass is remembered, once, in a table that
`tools.class_centroids` writes. In each epoch every class then gets the same number of
crops that contain one of its centres; the other crops are random ones, as usual.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from etils import epath

from eseg_jax.input.datasets import InputError

NOWHERE = -1  # row and column of a crop that is not drawn around anything


@dataclasses.dataclass(frozen=True)
class Centroids:
    """Where the classes of a split are.

    Attributes:
      ids: names of the split's examples, in the order of the split.
      example: int64 [k], index into ids.
      class_id: int64 [k], train id.
      place: int32 [k, 2], row and column in the image.
    """

    ids: tuple[str, ...]
    example: np.ndarray
    class_id: np.ndarray
    place: np.ndarray

    def save(self, path) -> None:
        with epath.Path(path).open("wb") as file:
            np.savez_compressed(file, **dataclasses.asdict(self))


def load(path: str, ids: Sequence[str]) -> Centroids:
    """The table in a file; InputError unless it was made of just these examples."""
    if not epath.Path(path).exists():
        raise InputError(
            f"config.input.centroids={path!r} does not exist; make it with python -m "
            "eseg_jax.tools.class_centroids."
        )
    with epath.Path(path).open("rb") as file, np.load(file) as arrays:
        table = Centroids(**{name: arrays[name] for name in arrays.files})
    if list(table.ids) != list(ids):
        raise InputError(
            f"The centroids in {path} were made of {len(table.ids)} examples, not of "
            f"the {len(ids)} of this split; make them again with python -m "
            "eseg_jax.tools.class_centroids."
        )
    return table


def find(label: np.ndarray, num_classes: int, tile: int) -> list[tuple[int, int, int]]:
    """(class, row, column) of each class's centre of mass in each tile of a label.

    Tiles do not overlap; what is left over at the bottom and on the right is not looked
    at. An image smaller than a tile is one tile (our choice: the authors' code finds
    none there, and so drops the class-uniform share of the epoch without a word).

    Args:
      label: uint8 [h, w] of train ids.
      num_classes: larger ids are no classes.
      tile: height and width of a tile.
    """
    found = []
    height, width = (min(tile, size) for size in label.shape)
    for top in range(0, label.shape[0] - height + 1, height):
        for left in range(0, label.shape[1] - width + 1, width):
            part = label[top : top + height, left : left + width]
            counts = np.bincount(part.ravel(), minlength=256)[:num_classes]
            for class_id in np.flatnonzero(counts):
                rows, columns = np.nonzero(part == class_id)
                found.append(
                    (int(class_id), top + int(rows.mean()), left + int(columns.mean()))
                )
    return found


def epoch(
    table: Centroids, num_classes: int, share: float, seed: int, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """An epoch's examples in order: a pure function of its arguments.

    Of n crops, int(n * share / num_classes) are drawn for each class the table knows,
    from its centres in random order, from the first again when there are too few. The
    others are as many different random examples.

    Returns:
      int64 [n] example indices; int32 [n, 2] places, NOWHERE for random crops.
    """
    # RandomState: unlike the newer generators, its numbers never change with NumPy.
    random = np.random.RandomState([seed & 0xFFFFFFFF, number])
    count = len(table.ids)
    each = int(count * share / num_classes)
    chosen = []
    for class_id in np.unique(table.class_id):
        rows = random.permutation(np.flatnonzero(table.class_id == class_id))
        chosen.append(np.resize(rows, each))
    chosen = np.concatenate(chosen)
    others = random.permutation(count)[: count - len(chosen)]
    examples = np.concatenate([table.example[chosen], others])
    places = np.full((count, 2), NOWHERE, np.int32)
    places[: len(chosen)] = table.place[chosen]
    order = random.permutation(count)
    return examples[order].astype(np.int64), places[order]

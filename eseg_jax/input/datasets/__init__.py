"""Every dataset as data: classes, colours, label ids, layout, licence, where to get it.

A dataset is one `DatasetInfo` in `DATASETS`; adding one is adding a row. Nothing here
imports TensorFlow or decodes a file: `list_split` only says which files make up a
split, and stops with one sentence when they are not where the layout puts them.

- types.py: what a row is made of.
- cityscapes.py, camvid.py, …: the rows.
- layouts.py: the files of a split.
- problems.py: what is wrong with one file, as a sentence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from eseg_jax.input.datasets import (
    ade20k,
    camvid,
    cityscapes,
    mapillary,
    pascal,
)
from eseg_jax.input.datasets.folder import FOLDER
from eseg_jax.input.datasets.layouts import (
    find_records,
    find_root,
    list_images,
    list_split,
    open_root,
    parts_of,
    scan_split,
)
from eseg_jax.input.datasets.problems import (
    damaged_problem,
    first_few,
    ids_problem,
    image_format_problem,
    label_format_problem,
    label_headers,
    size_problem,
)
from eseg_jax.input.datasets.types import (
    IGNORE,
    OTHER_COLOUR,
    DatasetInfo,
    Example,
    IdLists,
    InputError,
    LabelKind,
    LayoutError,
    PairLists,
    Records,
    Split,
    Tree,
    from_records,
)

__all__ = [
    "DATASETS",
    "FOLDER",
    "IGNORE",
    "OTHER_COLOUR",
    "DatasetInfo",
    "Example",
    "IdLists",
    "InputError",
    "LabelKind",
    "LayoutError",
    "PairLists",
    "Records",
    "Split",
    "Tree",
    "configured",
    "damaged_problem",
    "find_records",
    "find_root",
    "first_few",
    "from_records",
    "get",
    "ids_problem",
    "image_format_problem",
    "label_format_problem",
    "label_headers",
    "list_images",
    "list_split",
    "open_root",
    "parts_of",
    "scan_split",
    "size_problem",
]

_SCENES = DatasetInfo(
    name="scenes",
    class_names=cityscapes.CLASS_NAMES,
    colours=cityscapes.COLOURS,
    # train_extra: other scenes, to pseudo-label as Cityscapes' coarse images.
    splits={"train": ("train",), "val": ("val",), "train_extra": ("train_extra",)},
    where_to_get="built in",
    licence="that of this package",
)
# Stands for Vistas beside Cityscapes: other colours, traffic on the other side, and
# other classes: trains and two-wheelers are ignored.
_SCENES_ABROAD = dataclasses.replace(
    _SCENES,
    name="scenes_abroad",
    class_names=cityscapes.CLASS_NAMES[:16],
    colours=cityscapes.COLOURS[:16],
)

DATASETS: Mapping[str, DatasetInfo] = {
    info.name: info
    for info in (
        cityscapes.FINE,
        cityscapes.COARSE,
        mapillary.V1,
        mapillary.V2,
        mapillary.CITYSCAPES,
        camvid.SEGNET,
        camvid.EXACT,
        camvid.MERGED,
        ade20k.SCENE_PARSE_150,
        pascal.CONTEXT_59,
        pascal.CONTEXT_60,
        pascal.VOC_2012,
        FOLDER,
        _SCENES,
        _SCENES_ABROAD,
    )
}


def get(name: str) -> DatasetInfo:
    """The row called `name` as it stands here; InputError if there is none."""
    if name not in DATASETS:
        raise InputError(
            f"config.dataset.name={name!r} is not a dataset; choose one of "
            f"{', '.join(DATASETS)}."
        )
    return DATASETS[name]


def configured(dataset) -> DatasetInfo:
    """The row of config.dataset, with what only the config or a file knows filled in.

    Raises:
      InputError: the name is unknown, or the classes cannot be found.
    """
    info = get(dataset.name)
    return info.complete(info, dataset) if info.complete else info

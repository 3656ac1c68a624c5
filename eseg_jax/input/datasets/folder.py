"""Your own data: a folder of images, a folder of masks, a class table in the config.

config.dataset then has these fields besides the usual ones:

  images   where images lie below the root: "images/{split}/{id}.*"; see `Tree`.
  masks    where their masks lie: "masks/{split}/{id}.png".
  lists    "" or text files of one id a line, such as "{split}.txt", when no folder
           tells the splits apart.
  classes  one row a class, in the order of the train ids: (name, colour) or
           (name, colour, values). Values are what stands for the class in a mask:
           ids, or RGB colours. Without values it is the row's position in masks of
           ids, and the row's colour in masks of colours.
  ignored  values of pixels that count neither in training nor in evaluation; in masks
           of colours "others" stands for every colour that is not listed.
  colour_masks  whether masks hold colours rather than ids.
  records  where TFDS keeps the dataset, when it is read from records: "folder/NAME".
"""

from __future__ import annotations

import dataclasses

import numpy as np

from eseg_jax.input.datasets.types import (
    IGNORE,
    OTHER_COLOUR,
    DatasetInfo,
    IdLists,
    InputError,
    LabelKind,
    Tree,
    built_by,
)


def _from_config(info: DatasetInfo, dataset) -> DatasetInfo:
    """The row that config.dataset describes."""
    if not dataset.classes:
        raise InputError(
            "config.dataset.classes is empty; list the classes of your masks in the "
            "configuration file, such as (('road', (128, 64, 128)), …)."
        )
    values: dict = {}  # what stands in the mask -> train id
    for train_id, (name, colour, *rest) in enumerate(dataset.classes):
        default = tuple(colour) if dataset.colour_masks else train_id
        for value in rest[0] if rest else (default,):
            _add(values, value, train_id, f"class {name!r}", dataset.colour_masks)
    for value in dataset.ignored:
        if value != "others":
            _add(values, value, IGNORE, "config.dataset.ignored", dataset.colour_masks)
    info = dataclasses.replace(
        info,
        class_names=tuple(name for name, *_ in dataset.classes),
        colours=np.array([colour for _, colour, *_ in dataset.classes], np.uint8),
    )
    return with_layout(
        info,
        images=dataset.images,
        lists=dataset.lists,
        kind=_kind(dataset, values),
        splits=(dataset.train_split, dataset.eval_split),
        records=dataset.records,
    )


def with_layout(
    info: DatasetInfo, *, images: str, lists: str, kind: LabelKind, splits, records: str
) -> DatasetInfo:
    """The row with the files that these fields of config.dataset describe."""
    return dataclasses.replace(
        info,
        labels=(kind,),
        layout=IdLists(file=lists, image=images) if lists else Tree(image=images),
        splits={split: (split,) for split in dict.fromkeys(splits)},
        records=built_by(*records.split("/")),
    )


def _kind(dataset, values: dict) -> LabelKind:
    if not dataset.colour_masks:
        return LabelKind("masks", dataset.masks, values)
    mapping = dict(enumerate(values.values()))
    if "others" in dataset.ignored:
        mapping[OTHER_COLOUR] = IGNORE
    return LabelKind("masks", dataset.masks, mapping, tuple(values))


def _add(values: dict, value, train_id: int, where: str, colours: bool) -> None:
    """Adds a mask value; InputError when it is impossible or already taken."""
    if colours:
        value = tuple(value) if isinstance(value, tuple | list) else value
        good = isinstance(value, tuple) and len(value) == 3
        good = good and all(0 <= channel <= 255 for channel in value)
    else:
        good = isinstance(value, int) and 0 <= value <= 255
    if not good:
        raise InputError(
            f"The mask value {value!r} of {where} is not "
            f"{'a colour (r, g, b)' if colours else 'an id'} with numbers from 0 to "
            "255; mend config.dataset."
        )
    if value in values:
        raise InputError(
            f"The mask value {value!r} of {where} already stands for something else "
            "in config.dataset; a value has one meaning."
        )
    values[value] = train_id


FOLDER = DatasetInfo(
    name="folder",
    root_variable="FOLDER_DATASET",
    where_to_get="put your images and masks where config.dataset says",
    licence="yours",
    complete=_from_config,
)

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
    splits = dict.fromkeys((dataset.train_split, dataset.eval_split))
    return dataclasses.replace(
        info,
        class_names=tuple(name for name, *_ in dataset.classes),
        colours=np.array([colour for _, colour, *_ in dataset.classes], np.uint8),
        labels=(_kind(dataset, values),),
        layout=IdLists(file=dataset.lists, image=dataset.images)
        if dataset.lists
        else Tree(image=dataset.images),
        splits={split: (split,) for split in splits},
    )


def _kind(dataset, values: dict) -> LabelKind:
    if not dataset.colour_masks:
        return LabelKind("masks of ids", dataset.masks, values)
    mapping = dict(enumerate(values.values()))
    if "others" in dataset.ignored:
        mapping[OTHER_COLOUR] = IGNORE
    return LabelKind("masks of colours", dataset.masks, mapping, tuple(values))


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

"""Mapillary Vistas: native classes of v1.2 and v2.0, and v1.2 as Cityscapes' 19.

The classes are read from the configuration file that comes with the images.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np

from eseg_jax.input.datasets import cityscapes
from eseg_jax.input.datasets.layouts import find_records, open_root
from eseg_jax.input.datasets.types import (
    IGNORE,
    DatasetInfo,
    InputError,
    LabelKind,
    Tree,
    built_by,
    from_records,
)

# As SFNet's mapillary_to_city.py, by name: Cityscapes class -> v1.2 classes. All
# others, such as crosswalk markings and parking, are ignored.
_TO_CITYSCAPES = {
    "road": ("construction--flat--road", "marking--general", "object--manhole"),
    "sidewalk": ("construction--barrier--curb", "construction--flat--sidewalk"),
    "building": ("construction--structure--building",),
    "wall": ("construction--barrier--wall",),
    "fence": ("construction--barrier--fence",),
    "pole": ("object--support--pole", "object--support--utility-pole"),
    "traffic light": ("object--traffic-light",),
    "traffic sign": ("object--traffic-sign--front",),
    "vegetation": ("nature--vegetation",),
    "terrain": ("nature--terrain",),
    "sky": ("nature--sky",),
    "person": ("human--person",),
    "rider": (
        "human--rider--bicyclist",
        "human--rider--motorcyclist",
        "human--rider--other-rider",
    ),
    "car": ("object--vehicle--car",),
    "truck": ("object--vehicle--truck",),
    "bus": ("object--vehicle--bus",),
    "train": ("object--vehicle--on-rails",),
    "motorcycle": ("object--vehicle--motorcycle",),
    "bicycle": ("object--vehicle--bicycle",),
}


def _native(info: DatasetInfo, dataset) -> DatasetInfo:
    """The row with the scored classes of the dataset's configuration file."""
    table = _read_table(info, dataset)
    scored = [i for i, label in enumerate(table) if label["evaluate"]]
    train_ids = {label_id: train_id for train_id, label_id in enumerate(scored)}
    return dataclasses.replace(
        info,
        class_names=tuple(table[i]["readable"] for i in scored),
        colours=np.array([table[i]["color"] for i in scored], np.uint8),
        labels=_with_mapping(
            info, {i: train_ids.get(i, IGNORE) for i in range(len(table))}
        ),
    )


def _as_cityscapes(info: DatasetInfo, dataset) -> DatasetInfo:
    """The row with Cityscapes' classes."""
    table = _read_table(info, dataset)
    names = [label["name"] for label in table]
    mapping = {label_id: IGNORE for label_id in range(len(names))}
    for train_id, name in enumerate(cityscapes.CLASS_NAMES):
        for source in _TO_CITYSCAPES[name]:
            if source not in names:
                raise InputError(
                    f"The configuration file of {info.name} has no class {source!r}, "
                    f"which becomes {name!r}; it is not the one of Vistas 1.2."
                )
            mapping[names.index(source)] = train_id
    return dataclasses.replace(info, labels=_with_mapping(info, mapping))


def _with_mapping(info: DatasetInfo, mapping: dict) -> tuple[LabelKind, ...]:
    return tuple(dataclasses.replace(kind, mapping=mapping) for kind in info.labels)


def _read_table(info: DatasetInfo, dataset) -> list[dict]:
    """The labels of the configuration file, in the order of their ids."""
    if from_records(dataset):
        root = find_records(info, dataset.root)
    else:
        root, _ = open_root(info, dataset.root)
    names = CONFIG_FILES[info.root_variable]
    path = next((root / name for name in names if (root / name).exists()), None)
    if path is None:
        raise InputError(
            f"The classes of {info.name} are read from {names[0]}, which is not in "
            f"{root}; copy it there from the download."
        )
    try:
        return json.loads(path.read_text())["labels"]
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{path} is not a configuration file of Mapillary Vistas ({error}); "
            "replace it by the one of the download."
        ) from None


# Releases before 2.0 called theirs config.json.
CONFIG_FILES = {
    "MAPILLARY_V1_DATASET": ("config_v1.2.json", "config.json"),
    "MAPILLARY_V2_DATASET": ("config_v2.0.json",),
}


def _row(name: str, version: str, complete, **fields) -> DatasetInfo:
    major = version[0]
    kinds = [LabelKind(f"v{version}", f"{{split}}/v{version}/labels/{{id}}.png", {})]
    if version == "1.2":
        kinds.append(LabelKind("labels", "{split}/labels/{id}.png", {}))
    return DatasetInfo(
        name=name,
        labels=tuple(kinds),
        layout=Tree(image="{split}/images/{id}.jpg"),
        splits={
            "train": ("training",),
            "val": ("validation",),
            "test": ("testing",),
            "trainval": ("training", "validation"),
        },
        sizes={"training": 18000, "validation": 2000, "testing": 5000},
        root_variable=f"MAPILLARY_V{major}_DATASET",
        where_to_get=(
            "download Mapillary Vistas from https://www.mapillary.com/dataset/vistas "
            "(free registration) and unpack it, so that the folder holds "
            f"config_v{version}.json and training/images/"
        ),
        licence="research edition: CC BY-NC-SA 4.0, non-commercial",
        records=built_by("mapillary_vistas", f"v{version}"),
        complete=complete,
        **fields,
    )


V1 = _row("mapillary_v1", "1.2", _native)
V2 = _row("mapillary_v2", "2.0", _native)
CITYSCAPES = _row(
    "mapillary_cityscapes",
    "1.2",
    _as_cityscapes,
    class_names=cityscapes.CLASS_NAMES,
    colours=cityscapes.COLOURS,
)

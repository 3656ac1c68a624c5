"""Cityscapes: fine and coarse labels."""

import numpy as np

from eseg_jax.input.datasets.types import IGNORE, DatasetInfo, LabelKind, Records, Tree

# cityscapesScripts labels.py: (id, name, colour) in the order of the train ids.
_CLASSES = (
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
CLASS_NAMES = tuple(name for _, name, _ in _CLASSES)
COLOURS = np.array([colour for _, _, colour in _CLASSES], np.uint8)
LABEL_IDS = {i: IGNORE for i in range(34)} | {
    label_id: train_id for train_id, (label_id, _, _) in enumerate(_CLASSES)
}
_TRAIN_IDS = {i: i for i in range(19)} | {IGNORE: IGNORE}


def _row(name: str, folder: str, config: str, get: str, **fields) -> DatasetInfo:
    label = f"{folder}/{{split}}/{{city}}/{{id}}_{folder}"
    return DatasetInfo(
        name=name,
        class_names=CLASS_NAMES,
        colours=COLOURS,
        labels=(
            LabelKind("labelIds", f"{label}_labelIds.png", LABEL_IDS),
            LabelKind("trainIds", f"{label}_labelTrainIds.png", _TRAIN_IDS),
        ),
        layout=Tree(image="leftImg8bit/{split}/{city}/{id}_leftImg8bit.png"),
        root_variable="CITYSCAPES_DATASET",
        where_to_get=(
            f"download {get} from https://www.cityscapes-dataset.com (free "
            "registration) and unpack both into one folder, so that it holds "
            f"leftImg8bit/train/… and {folder}/train/…"
        ),
        licence="non-commercial research, no redistribution",
        # TFDS' own builder, which unpacks the zip files itself.
        records=Records(
            folder=f"cityscapes/{config}",
            command=f"tfds build cityscapes --config={config} --manual_dir=ZIPS",
            id="image_id",
            image="image_left",
            label="segmentation_label",
            kind="labelIds",
            splits={"val": "validation"},
        ),
        **fields,
    )


FINE = _row(
    "cityscapes",
    "gtFine",
    "semantic_segmentation",
    "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip",
    splits={
        "train": ("train",),
        "val": ("val",),
        "test": ("test",),
        "trainval": ("train", "val"),
        "train_extra": ("train_extra",),  # images to pseudo-label: no fine labels
    },
    sizes={"train": 2975, "val": 500, "test": 1525, "train_extra": 19998},
)
COARSE = _row(
    "cityscapes_coarse",
    "gtCoarse",
    "semantic_segmentation_extra",
    "leftImg8bit_trainvaltest.zip, leftImg8bit_trainextra.zip and gtCoarse.zip",
    splits={
        "train": ("train",),
        "val": ("val",),
        "train_extra": ("train_extra",),
        "trainval": ("train", "val"),
        "all": ("train", "val", "train_extra"),
    },
    sizes={"train": 2975, "val": 500, "train_extra": 19998},
)

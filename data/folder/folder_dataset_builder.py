"""Your own data: images and masks in folders of any names.

  tfds build data/folder --manual_dir=FOLDER --config='{"name": "mine"}'

The fields of `Layout` go into the same JSON; the classes do not matter here, they stay
in the training configuration.
"""

import dataclasses

import tensorflow_datasets as tfds

from eseg_jax.input.datasets import DATASETS, DatasetInfo, LabelKind, folder
from eseg_jax.input.tfds_builder import FilesBuilder


@dataclasses.dataclass(eq=False)
class Layout(tfds.core.BuilderConfig):
    """Where images and masks lie; the fields of config.dataset of the same names."""

    images: str = "images/{split}/{id}.*"
    masks: str = "masks/{split}/{id}.png"
    lists: str = ""
    splits: tuple[str, ...] = ("train", "val")


class Builder(FilesBuilder):
    MANUAL_DOWNLOAD_INSTRUCTIONS = DATASETS["folder"].where_to_get
    BUILDER_CONFIGS = [Layout(name="default")]

    @property
    def row(self) -> DatasetInfo:
        layout = self.builder_config
        return folder.with_layout(
            DATASETS["folder"],
            images=layout.images,
            lists=layout.lists,
            kind=LabelKind("masks", layout.masks, {}),
            splits=layout.splits,
            records=f"folder/{layout.name}",
        )

"""Mapillary Vistas: the images once for each version of the labels."""

import tensorflow_datasets as tfds

from eseg_jax.input.datasets import DATASETS, DatasetInfo
from eseg_jax.input.tfds_builder import FilesBuilder

_ROWS = {"v1.2": DATASETS["mapillary_v1"], "v2.0": DATASETS["mapillary_v2"]}


class Builder(FilesBuilder):
    MANUAL_DOWNLOAD_INSTRUCTIONS = _ROWS["v1.2"].where_to_get
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in _ROWS]
    KEPT = ("config_v1.2.json", "config_v2.0.json", "config.json")

    @property
    def row(self) -> DatasetInfo:
        return _ROWS[self.builder_config.name]

"""ADE20K, SceneParse150's semantic labels (TFDS' scene_parse150 has instances)."""

from eseg_jax.input.datasets import DATASETS
from eseg_jax.input.tfds_builder import FilesBuilder


class Builder(FilesBuilder):
    ROW = DATASETS["ade20k"]
    MANUAL_DOWNLOAD_INSTRUCTIONS = ROW.where_to_get

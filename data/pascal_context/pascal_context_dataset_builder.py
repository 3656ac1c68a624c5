"""PASCAL Context, for pascal_context_59 and pascal_context_60 alike."""

from eseg_jax.input.datasets import DATASETS
from eseg_jax.input.tfds_builder import FilesBuilder


class Builder(FilesBuilder):
    ROW = DATASETS["pascal_context_60"]
    MANUAL_DOWNLOAD_INSTRUCTIONS = ROW.where_to_get

"""PASCAL VOC 2012 segmentation."""

from eseg_jax.input.datasets import DATASETS
from eseg_jax.input.tfds_builder import FilesBuilder


class Builder(FilesBuilder):
    ROW = DATASETS["voc2012"]
    MANUAL_DOWNLOAD_INSTRUCTIONS = ROW.where_to_get

"""CamVid, SegNet's 480x360 images with index labels."""

from eseg_jax.input.datasets import DATASETS
from eseg_jax.input.tfds_builder import FilesBuilder


class Builder(FilesBuilder):
    ROW = DATASETS["camvid"]
    MANUAL_DOWNLOAD_INSTRUCTIONS = ROW.where_to_get

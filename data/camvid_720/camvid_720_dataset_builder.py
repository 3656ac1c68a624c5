"""CamVid at 960x720, colour labels: for camvid_720 and camvid_720_merged alike."""

from eseg_jax.input.datasets import DATASETS
from eseg_jax.input.tfds_builder import FilesBuilder


class Builder(FilesBuilder):
    ROW = DATASETS["camvid_720"]
    MANUAL_DOWNLOAD_INSTRUCTIONS = ROW.where_to_get

"""What the TFDS builders in data/ share: files on disk to records, bytes unchanged.

`tfds build data/NAME --manual_dir=FOLDER` writes the records below TFDS' data_dir, from
a folder in the layout of the dataset's row. TFDS shows progress, writes under another
name until all is done, and does nothing when all has been done before: a build that was
killed is started again with the same command.
"""

from __future__ import annotations

import tensorflow_datasets as tfds
from etils import epath

from eseg_jax.input import datasets, tfds_source
from eseg_jax.input.tf_cpu import tf


class FilesBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Records of the files of one row of the dataset table.

    A record has "id", "kind" (of label file), "image" (the bytes of the image file,
    which TFDS decodes) and "label" (the bytes of the label file, which it does not, as
    palettes and colours need the row's table). Parts of the dataset that are not in the
    folder, or have no labels there, are left out.
    """

    VERSION = tfds.core.Version("1.0.0")
    ROW: datasets.DatasetInfo
    # Files of the dataset that are kept beside the records.
    KEPT: tuple[str, ...] = ()

    @property
    def row(self) -> datasets.DatasetInfo:
        return self.ROW

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.row.name}: {self.row.where_to_get}.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "kind": tfds.features.Text(),
                    "image": tfds.features.Image(),
                    "label": tfds.features.Scalar(tf.string),
                }
            ),
            license=self.row.licence,
        )

    def _split_generators(self, dl_manager) -> dict:
        root = str(dl_manager.manual_dir)
        found, absent = {}, None
        for name, parts in self.row.splits.items():
            if len(parts) > 1:
                continue  # made of other splits
            (part,) = parts
            try:
                if datasets.scan_split(self.row, name, root).examples:
                    found[part] = datasets.list_split(self.row, name, root)
            except datasets.LayoutError as error:
                absent = absent or error
        if not found:
            raise absent
        return {part: self._generate_examples(split) for part, split in found.items()}

    def _generate_examples(self, split: datasets.Split):
        for example in split.examples:
            yield (
                example.id,
                {
                    "id": example.id,
                    "kind": split.kind.name,
                    "image": example.image,
                    "label": epath.Path(example.label).read_bytes(),
                },
            )

    def download_and_prepare(self, *, download_config, **kwargs) -> None:
        super().download_and_prepare(download_config=download_config, **kwargs)
        folder = epath.Path(self.data_path)
        manual = (
            epath.Path(download_config.manual_dir or "") if download_config else None
        )
        for name in self.KEPT:
            if manual and (manual / name).exists():
                (manual / name).copy(folder / name, overwrite=True)
        for split in self.info.splits:
            tfds_source.open_index(folder, self.row.records, split)

"""Examples from TFDS records, in any order: the second road to the same batches.

A prepared dataset is a folder DATA_DIR/NAME[/CONFIG]/VERSION of TFRecord shards whose
records hold the bytes of image and label files as they were. TFRecords can only be read
from the front, and TFDS shuffles them; so one pass over the shards makes an index, the
name, place and checksum of every record, which is kept beside them. With it any record
is one read of a part of a file, in a bucket as on a disk, and element g of the training
stream is the same example as from the files.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import zlib
from collections.abc import Iterator

import tqdm
from etils import epath

from eseg_jax.input import folders
from eseg_jax.input.datasets import (
    DatasetInfo,
    Example,
    InputError,
    LabelKind,
    Records,
    find_records,
    first_few,
    parts_of,
)
from eseg_jax.input.tf_cpu import tf

_logger = logging.getLogger(__name__)

# Before the bytes of a TFRecord: their number and its checksum; behind: theirs.
HEAD, TAIL = 12, 4


@dataclasses.dataclass(frozen=True)
class Record:
    """One example of a TFDS dataset.

    Attributes:
      id: its name.
      kind: the kind of its label, by `LabelKind.name`.
      shard: the file it is in.
      offset: where its bytes start there.
      length: their number.
      checksum: their CRC-32.
    """

    id: str
    kind: str
    shard: str
    offset: int
    length: int
    checksum: int

    def __str__(self) -> str:
        return f"{self.id} (bytes from {self.offset} of {self.shard})"


def list_split(
    info: DatasetInfo, split: str, root: str
) -> tuple[tuple[Record, ...], LabelKind]:
    """The records of a split, sorted by id, and the kind of their labels.

    Args:
      info: the dataset.
      split: of the dataset, not of TFDS.
      root: config.dataset.root, the data_dir of TFDS.

    Raises:
      InputError: the dataset is not prepared, or not completely.
    """
    folder = find_records(info, root)
    splits = [info.records.splits.get(part, part) for part in parts_of(info, split)]
    records = [r for name in splits for r in open_index(folder, info.records, name)]
    known = {kind.name: kind for kind in info.labels}
    found = {record.kind for record in records}
    if len(found) > 1 or found - known.keys():
        raise InputError(
            f"The labels of {info.name} split {split!r} in {folder} are "
            f"{' and '.join(sorted(found))}, but should be of one kind among "
            f"{', '.join(known)}; prepare the dataset again."
        )
    return tuple(sorted(records, key=lambda record: record.id)), known[found.pop()]


def read(record: Record) -> bytes:
    """The bytes of a record, a tf.train.Example; InputError when they have changed."""
    try:
        with epath.Path(record.shard).open("rb") as file:
            file.seek(record.offset)
            data = file.read(record.length)
    except OSError as error:
        raise InputError(f"Record {record} cannot be read: {error}.") from None
    if zlib.crc32(data) != record.checksum:
        raise InputError(
            f"Record {record} is damaged: its checksum is another than when it was "
            "indexed; make these records again, those of a dataset with --overwrite."
        )
    return data


def image_and_label(data, records: Records):
    """A record's bytes, a string scalar -> the bytes of its image and of its label."""
    names = (records.image, records.label)
    return features(data, *names)


def features(data, *names: str):
    """A record's bytes, a string scalar -> the bytes of its features."""
    wanted = {name: tf.io.FixedLenFeature([], tf.string) for name in names}
    example = tf.io.parse_single_example(data, wanted)
    return tuple(example[name] for name in names)


def problem(
    info: DatasetInfo, kind: LabelKind, record: Record, records: Records
) -> str | None:
    """What is wrong with a record, as one sentence, or None."""
    try:
        image, label = image_and_label(read(record), records)
    except InputError as error:
        return str(error)
    example = Example(record.id, str(record), str(record))
    return folders.content_problem(info, kind, example, image.numpy(), label.numpy())


# --------------------------------------------------------------------------- the index


def open_index(folder: epath.Path, records: Records, split: str) -> list[Record]:
    """The records of a TFDS split in the order of the shards.

    The index is made when there is none or when it is of other shards. It is written
    under another name and then renamed: a run that is killed leaves no half of one, and
    of several that make it the last one wins.
    """
    shards = _shards(folder, split)
    path = folder / f"eseg_index_{split}.json"
    rows = _load(path, shards)
    if rows is None:
        rows = _make_index(folder, records, split, shards)
        try:
            temporary = folder / f"{path.name}.{os.getpid()}"
            temporary.write_text(json.dumps({"shards": shards, "records": rows}))
            temporary.replace(path)
        except OSError as error:
            _logger.warning(
                "The index of split %s cannot be kept (%s); every start makes it.",
                split,
                error,
            )
    return [
        Record(name, kind, str(folder / shards[shard][0]), *place)
        for name, kind, shard, *place in rows
    ]


def _shards(folder: epath.Path, split: str) -> list[list]:
    """[name, bytes] of the files of a split; InputError unless all are there."""
    found = {}
    count = 0
    for path in folder.iterdir():
        match = re.fullmatch(r".+-(.+)\.tfrecord-(\d+)-of-(\d+)", path.name)
        if match and match[1] == split:
            found[int(match[2])] = [path.name, path.stat().length]
            count = int(match[3])
    missing = sorted(set(range(count)) - set(found))
    if missing or not found:
        what = f"shards {first_few(missing)} of {count}" if found else "all shards"
        raise InputError(
            f"{what} of TFDS split {split!r} are missing in {folder}; prepare the "
            "dataset again, with TFDS' default --file_format=tfrecord."
        )
    return [found[number] for number in range(count)]


def _load(path: epath.Path, shards: list[list]) -> list[list] | None:
    """The rows of an index file, None unless it is one of these shards."""
    try:
        index = json.loads(path.read_text())
        return index["records"] if index["shards"] == shards else None
    except (OSError, ValueError, KeyError):
        return None


def _make_index(
    folder: epath.Path, records: Records, split: str, shards: list[list]
) -> list[list]:
    """[id, kind, number of the shard, offset, length, checksum] of every record."""
    rows = []
    with tqdm.tqdm(
        desc=f"indexing {split} of {folder}",
        total=sum(size for _, size in shards),
        unit="B",
        unit_scale=True,
    ) as progress:
        for number, (name, _) in enumerate(shards):
            for offset, data in _read_shard(folder / name):
                feature = tf.train.Example.FromString(data).features.feature
                name = feature[records.id].bytes_list.value[0].decode()
                kind = records.kind
                if not kind:
                    kind = feature["kind"].bytes_list.value[0].decode()
                place = [number, offset, len(data), zlib.crc32(data)]
                rows.append([name, kind, *place])
                progress.update(HEAD + len(data) + TAIL)
    if not rows:
        raise InputError(f"TFDS split {split!r} in {folder} has no examples.")
    return rows


def _read_shard(path: epath.Path) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of every record; TensorFlow compares their own checksums."""
    offset = 0
    try:
        for data in tf.data.TFRecordDataset(str(path), buffer_size=1 << 24):
            data = data.numpy()
            yield offset + HEAD, data
            offset += HEAD + len(data) + TAIL
    except tf.errors.OpError as error:
        raise InputError(
            f"{path} is damaged after byte {offset} ({type(error).__name__}); prepare "
            "the dataset again with --overwrite."
        ) from None

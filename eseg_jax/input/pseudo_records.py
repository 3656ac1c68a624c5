"""Pseudo-labels in TFRecord shards: few large files instead of many small ones.

A record is a tf.train.Example with the features

    id                   the image's name
    image                the bytes of its file; a PNG if that is neither PNG nor JPEG
    argmax, confidence   PNGs, as `pseudo` describes them

Labels are not stored: they are argmax where the confidence is at least the level that
pseudo.json gives for the class. The manifest says where each record is.
"""

from __future__ import annotations

import os
import pathlib
import tempfile
import zlib
from collections.abc import Sequence
from typing import Any

from etils import epath

from eseg_jax.input import tfds_source
from eseg_jax.input.datasets import Records
from eseg_jax.input.tf_cpu import tf

FEATURES = Records(folder="", command="", label="argmax")


def pack(examples: Sequence[dict[str, bytes]]) -> tuple[bytes, list[list[int]]]:
    """The bytes of a shard, and of each record the offset, length and CRC-32."""
    places, offset = [], 0
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "shard")
        with tf.io.TFRecordWriter(path) as writer:
            for features in examples:
                data = _serialise(features)
                writer.write(data)
                start = offset + tfds_source.HEAD
                places.append([start, len(data), zlib.crc32(data)])
                offset = start + len(data) + tfds_source.TAIL
        return pathlib.Path(path).read_bytes(), places


def _serialise(features: dict[str, bytes]) -> bytes:
    example = tf.train.Example()
    for name, data in features.items():
        example.features.feature[name].bytes_list.value.append(data)
    return example.SerializeToString(deterministic=True)


def record(store, line: dict[str, Any]) -> tfds_source.Record:
    """Where the record of a line of the manifest is, below the folder `store`."""
    shard = os.fspath(epath.Path(store) / line["shard"])
    return tfds_source.Record(line["name"], "", shard, *line["place"])


def read(store, line: dict[str, Any]) -> dict[str, bytes]:
    """The features of the record of a line of the manifest."""
    data = tfds_source.read(record(store, line))
    features = tf.train.Example.FromString(data).features.feature
    return {name: value.bytes_list.value[0] for name, value in features.items()}

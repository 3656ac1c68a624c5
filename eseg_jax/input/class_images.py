"""Reads images with a class: random crops for training, the centre for evaluation.

Batches are those of `pipeline`, but "label" is int32 [b], -1 for padding.
"""

from __future__ import annotations

import functools
import os

import numpy as np
from etils import epath

from eseg_jax.input import class_folders, folders
from eseg_jax.input.datasets import InputError
from eseg_jax.input.sources import Source
from eseg_jax.input.tf_cpu import tf

# Inception's crops, which ImageNet's recipes share: share of the area, width / height.
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
# Evaluation shows the crop's share of the shorter side: 224 of 256.
CENTRE = 0.875
_NO_TABLE = np.zeros(0, np.uint8)


def open_split(config, split: str) -> Source:
    """The source of a split of config.dataset; InputError when it cannot be found.

    Its `read` gives (class int32 scalar, the file's bytes).
    """
    open_it = _open_imagenet if config.dataset.name == "imagenet2012" else _open_folders
    ids, read, problem = open_it(config, split)
    crop = tuple(config.input.crop)
    load_eval = functools.partial(_load_eval, crop)
    return Source(
        ids, _NO_TABLE, read, problem, load_train=_load_train, load_eval=load_eval
    )


def _open_folders(config, split: str):
    paths, labels = class_folders.list_images(config, split)
    all_paths, all_labels = tf.constant(paths), tf.constant(labels)

    def read(index):
        return all_labels[index], tf.io.read_file(all_paths[index])

    def problem(index: int) -> str | None:
        try:
            folders.decode_image(read(index)[1])
        except tf.errors.OpError as error:
            return f"Image {paths[index]} cannot be read: {folders.first_line(error)}."
        return None

    return paths, read, problem


def _open_imagenet(config, split: str):
    source = _data_source(config, split)

    def fetch(index):
        example = source[int(index)]
        return np.int32(example["label"]), example["image"]

    def read(index):
        label, data = tf.numpy_function(fetch, [index], [tf.int32, tf.string])
        return tf.ensure_shape(label, ()), tf.ensure_shape(data, ())

    ids = [f"{split}_{index:07d}" for index in range(len(source))]
    return ids, read, lambda index: None


def _data_source(config, split: str):
    """TensorFlow Datasets' random access to imagenet2012: index -> image and label."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(
            "imagenet2012 is read by TensorFlow Datasets, which is not installed; "
            "pip install tensorflow-datasets array_record, or use class_folders."
        ) from error
    root = config.dataset.root or os.environ.get(
        "TFDS_DATA_DIR", "~/tensorflow_datasets"
    )
    folder = epath.Path(root).expanduser() / "imagenet2012"
    # Files in another format have no random access, which resuming rests on.
    command = "tfds build imagenet2012 --file_format=array_record"
    try:
        builder = tfds.builder(
            "imagenet2012", data_dir=folder.parent, file_format="array_record"
        )
        return builder.as_data_source(
            split, decoders={"image": tfds.decode.SkipDecoding()}
        )
    except (KeyError, ValueError, NotImplementedError, OSError) as error:
        raise InputError(
            f"Split {split!r} of imagenet2012 cannot be read from {folder} "
            f"({' '.join(str(error).split())[:200]}); prepare it with `{command} "
            f"--data_dir={folder.parent}`, or set --config.dataset.root."
        ) from error


# ------------------------------------------------------------------------ one element


def _load_train(source: Source, config, stand_in, number, index):
    """A random part of the image, mirrored half of the time."""
    index = stand_in[index]
    label, data = source.read(index)
    key = tf.stack([tf.constant(config.seed, tf.int64), number])
    first, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.concat([folders.image_size(data), [3]], axis=0),
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        tf.random.experimental.stateless_fold_in(key, 0),
        min_object_covered=0.0,
        area_range=_AREA,
        aspect_ratio_range=_ASPECT,
    )
    box = tf.concat([first[:2], size[:2]], axis=0)
    # See `sources` on truncated files: which ones break must not depend on the crop.
    whole = config.input.max_broken_files > 0
    image = folders.decode_image(data, box, decode_whole=whole)
    example = {"image": _resize(image, tuple(config.input.crop))}
    if config.input.flip:
        flip = tf.random.experimental.stateless_fold_in(key, 1)
        example["image"] = tf.image.stateless_random_flip_left_right(
            example["image"], flip
        )
    return example | {"label": label, "index": index}


def _load_eval(crop, source: Source, index, real):
    """The middle of the image: the largest window of the crop's shape, times CENTRE."""
    label, data = source.read(index)
    size = folders.image_size(data)
    shape = tf.constant(crop, tf.float32)
    scale = tf.reduce_min(tf.cast(size, tf.float32) / shape)
    window = tf.cast(tf.round(shape * scale * CENTRE), tf.int32)
    box = tf.concat([(size - window) // 2, tf.maximum(window, 1)], axis=0)
    return {
        "image": _resize(folders.decode_image(data, box), crop),
        "label": tf.where(real, label, -1),
        "index": tf.where(real, index, -1),
        "mask": real,
    }


def _resize(image, size):
    """Bilinear and antialiased: photographs shrink to a fraction of their size."""
    image = tf.image.resize(image, size, method="bilinear", antialias=True)
    image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
    return tf.ensure_shape(image, (*size, 3))

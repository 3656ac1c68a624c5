"""Where examples come from: files, records, pseudo-labels or drawn scenes."""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
from collections.abc import Callable, Sequence

import numpy as np

from eseg_jax.input import (
    dataset_info,
    datasets,
    draw_scene,
    folders,
    num_examples,
    pseudo,
    tfds_source,
    transforms,
)
from eseg_jax.input.datasets import IGNORE
from eseg_jax.input.tf_cpu import tf

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where examples come from.

    Attributes:
      ids: names of the examples.
      table: uint8 [256], label value -> train id.
      read: index -> (int32 [2], height and width; box -> (image uint8 [h, w, 3], label
        uint8 [h, w]) of that box, or of everything when None). Runs inside the graph;
        fails on a broken file.
      problem: index -> sentence about what is wrong with the example, or None.
      doubt: (index, box, label, key) -> the label part with 255 where it is not to be
        trusted; None trusts all. Runs inside the graph, in training only.
      load_train, load_eval: what makes an element of an example, if it is not an image
        with a label map; take and return what `pipeline`'s own do.
    """

    ids: Sequence[str]
    table: np.ndarray
    read: Callable
    problem: Callable[[int], str | None]
    doubt: Callable | None = None
    load_train: Callable | None = None
    load_eval: Callable | None = None


def open_split(config, split: str) -> Source:
    """The source of a split of config.dataset; InputError when it cannot be found."""
    info = datasets.configured(config.dataset)
    if info.layout is None:
        return _scene_source(config, split)
    if datasets.from_records(config.dataset):
        records, kind = tfds_source.list_split(info, split, config.dataset.root)
        return _record_source(config, info, records, kind, info.records)
    return _folder_source(config, info, split)


def _folder_source(config, info: datasets.DatasetInfo, split: str) -> Source:
    found = datasets.list_split(info, split, config.dataset.root)
    examples, kind = found.examples, found.kind
    if found.missing_images:
        _logger.warning(
            "%s split %r: %d labels have no image and are left out, first %s",
            info.name,
            split,
            len(found.missing_images),
            found.missing_images[0],
        )
    return _file_source(config, info, examples, kind)


def pseudo_source(config) -> Source:
    """The source of the pseudo-labels in config.dataset.pseudo."""
    info, options = dataset_info(config), config.input
    found = pseudo.open_folder(config.dataset)
    kind = pseudo.label_kind(info.num_classes)
    # The lowest confidence byte that each label keeps. Labels in files are the
    # teacher's, made with its own levels; any other threshold needs its answers.
    levels = np.zeros(256, np.int32)
    if options.pseudo_threshold:
        levels[:] = pseudo.level(options.pseudo_threshold)
    elif found.in_shards:
        levels[: info.num_classes] = found.levels
    if found.in_shards:
        from eseg_jax.input import pseudo_records

        records = [pseudo_records.record(found.store, line) for line in found.lines]
        read_record = _record_reader(config, records)
        source = _record_source(
            config, info, records, kind, pseudo_records.FEATURES, read_record
        )

        def read_confidence(index):
            return tfds_source.features(read_record(index), "confidence")[0]

    else:
        examples, confidences = found.files(answers=bool(options.pseudo_threshold))
        source = _file_source(config, info, examples, kind)
        confidences = tf.constant(confidences)

        def read_confidence(index):
            return tf.io.read_file(confidences[index])

    def doubt(index, box, label, key):
        confidence = folders.decode_label(
            read_confidence(index), pseudo.CONFIDENCE, box
        )
        confidence = tf.cast(confidence, tf.int32)
        kept = confidence >= tf.gather(levels, tf.cast(label, tf.int32))
        if options.pseudo_weights:
            chance = transforms.uniform(key, 7, tf.shape(label))
            kept &= tf.cast(confidence, tf.float32) > 255 * chance
        return tf.where(kept, label, tf.constant(IGNORE, tf.uint8))

    if levels.any() or options.pseudo_weights:
        source = dataclasses.replace(source, doubt=doubt)
    return source


def _file_source(config, info: datasets.DatasetInfo, examples, kind) -> Source:
    images = tf.constant([example.image for example in examples])
    labels = tf.constant([example.label for example in examples])
    read_file = _file_reader(config.input.cache_gb)
    return Source(
        ids=[example.id for example in examples],
        table=kind.table(),
        read=_decoding(
            config,
            kind,
            lambda index: (read_file(images[index]), read_file(labels[index])),
        ),
        problem=lambda index: folders.problem(info, kind, examples[index]),
    )


def _record_source(
    config, info: datasets.DatasetInfo, records, kind, features, read_record=None
) -> Source:
    """The source of `tfds_source.Record`s whose `features` hold image and label."""
    read_record = read_record or _record_reader(config, records)
    return Source(
        ids=[record.id for record in records],
        table=kind.table(),
        read=_decoding(
            config,
            kind,
            lambda index: tfds_source.image_and_label(read_record(index), features),
        ),
        problem=lambda i: tfds_source.problem(info, kind, records[i], features),
    )


def _record_reader(config, records) -> Callable:
    """index -> the bytes of a record, in the graph."""
    return _in_graph(
        _cached(lambda i: tfds_source.read(records[i]), config.input.cache_gb)
    )


def _decoding(config, kind: datasets.LabelKind, read_bytes: Callable) -> Callable:
    """`Source.read` of images and labels that are PNGs or JPEGs.

    Args:
      config: the configuration.
      kind: of the labels.
      read_bytes: index -> the bytes of the image and of the label, string scalars.
    """
    # A decoder that has the crop stops. Were broken files tolerated, whether a damaged
    # one counts as broken would then depend on the crop, and a resumed run could differ
    # from an unbroken one.
    whole = config.input.max_broken_files > 0

    def read(index):
        image, label = read_bytes(index)
        size = folders.image_size(image)
        tf.debugging.Assert(tf.reduce_all(size == folders.png_size(label)), [index])

        def load(box):
            return (
                folders.decode_image(image, box, decode_whole=whole),
                folders.decode_label(label, kind, box, decode_whole=whole),
            )

        return size, load

    return read


def _file_reader(cache_gb: float) -> Callable:
    """path -> bytes, in the graph; files are kept until they fill `cache_gb`."""
    if not cache_gb:
        return tf.io.read_file

    def read(path: bytes) -> bytes:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()

    return _in_graph(_cached(read, cache_gb))


def _in_graph(read: Callable) -> Callable:
    """A function of a scalar that returns bytes, as one of tensors."""

    def call(key):
        return read(key.item() if isinstance(key, np.ndarray | np.generic) else key)

    return lambda key: tf.ensure_shape(tf.numpy_function(call, [key], tf.string), [])


def _cached(read: Callable, cache_gb: float) -> Callable:
    """The function of one key with its results kept until they fill `cache_gb`."""
    cache = {}
    room = [int(cache_gb * 1e9)]
    lock = threading.Lock()

    def cached(key):
        data = cache.get(key)
        if data is None:
            data = read(key)
            with lock:
                if key not in cache and len(data) <= room[0]:
                    cache[key] = data
                    room[0] -= len(data)
        return data

    return cached


def _scene_source(config, split: str) -> Source:
    size = tuple(config.dataset.size)
    draw = functools.partial(draw_scene, config, split)

    def read(index):
        image, label = tf.numpy_function(draw, [index], [tf.uint8, tf.uint8])
        image = tf.ensure_shape(image, (*size, 3))
        label = tf.ensure_shape(label, size)

        def load(box):
            if box is None:
                return image, label
            return transforms.crop_to(image, box), transforms.crop_to(label, box)

        return tf.constant(size), load

    return Source(
        ids=[f"{split}_{index:06d}" for index in range(num_examples(config, split))],
        table=np.arange(256, dtype=np.uint8),
        read=read,
        problem=lambda index: None,
    )

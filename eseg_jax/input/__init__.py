"""Batches for training and evaluation, from files, TFDS records or built-in scenes.

A batch is a dict of numpy arrays: "image" uint8 [b, h, w, 3] RGB, "label" uint8
[b, h, w] of train ids with 255 = ignore, and "id", a list of b names. TensorFlow is
imported when the first batches are asked for, not with this module.

Datasets of classified images, for pre-training, have labels int32 [b] instead.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eseg_jax.input import class_folders, datasets, pseudo
from eseg_jax.input.datasets import DatasetInfo, InputError

__all__ = [
    "InputError",
    "check_pseudo_labels",
    "dataset_info",
    "draw_scene",
    "eval_batches",
    "example_ids",
    "is_classification",
    "labels",
    "num_examples",
    "train_batches",
]

# The scenes are a fixed dataset: config.seed changes the training, not the data.
_SCENES_SEED = 0
# Where the scenes of a split start, beyond any number of those before one would draw.
_SCENES_START = {"train": 0, "train_extra": 500_000, "val": 1_000_000}
_SCENE_CACHE_BYTES = 1 << 30

_scene_cache: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}


def train_batches(
    config, *, start_step: int = 0, process_index: int = 0, process_count: int = 1
) -> Iterator[dict]:
    """Endless augmented training batches from `start_step` on.

    Row r of step k is element g = k * batch_size + r: example permutation(seed, epoch)
    [g % n] of epoch g // n, augmented with the key (seed, g). Process p of P gets the
    rows [p * b / P, (p + 1) * b / P) of every batch. So resuming needs nothing but the
    step, and the batches do not depend on the number of processes. With
    config.input.class_uniform, `class_uniform.epoch` takes the permutation's place.

    With config.dataset.pseudo, the share config.input.pseudo_fraction of every batch
    has pseudo-labels, see `pseudo.mix`: two such streams, each with elements, epochs
    and permutations of its own.

    With config.input.max_broken_files > 0, a file that cannot be read is logged and
    counted, and the next readable example in sorted order takes its place; the count is
    of distinct examples and starts again with each run and process.

    Args:
      config: see the fields of config.dataset and config.input in configs/base.py.
      start_step: the first batch to return.
      process_index: of this process.
      process_count: number of processes that share every batch.

    Raises:
      InputError: at the call, when the data is missing or the batch cannot be shared
        evenly; while iterating, when a file is broken and that is not tolerated.
    """
    _check_shares(config.input.batch_size, "config.input.batch_size", process_count)
    from eseg_jax.input import pipeline, sources

    def stream(source, config):
        shares = (start_step, process_index, process_count)
        return pipeline.close_at_exit(pipeline.train_batches(source, config, *shares))

    source = _open_split(config, config.dataset.train_split)
    if not config.dataset.get("pseudo", ""):
        return stream(source, config)
    check_pseudo_labels(config)
    true, guessed = pseudo.stream_configs(config, process_count)
    return pseudo.mix(
        stream(source, true),
        stream(sources.pseudo_source(config), guessed),
        config.input.pseudo_fraction,
    )


def check_pseudo_labels(config) -> None:
    """InputError when config.dataset.pseudo cannot train what config measures."""
    if not config.dataset.get("pseudo", ""):
        return
    meta = pseudo.read_meta(config.dataset.pseudo)
    names = dataset_info(config).class_names
    if tuple(meta["class_names"]) != tuple(names):
        raise InputError(
            f"The pseudo-labels in {config.dataset.pseudo} have the classes "
            f"{', '.join(meta['class_names'])} and {config.dataset.name} has "
            f"{', '.join(names)}; let a teacher of the same classes label the images."
        )
    if not config.dataset.pseudo_may_know_eval:
        pseudo.check_unseen(meta, config.dataset)


def eval_batches(
    config, *, process_index: int = 0, process_count: int = 1
) -> Iterator[dict]:
    """One pass over the evaluation split: whole images at their original size.

    Batches also have "mask", bool [b]: False marks padding, whose label is all 255 and
    whose id is "". Every process gets the same number of batches, and row r of global
    batch k is example k * config.eval.batch_size + r in sorted order.

    Raises:
      InputError: as `train_batches`; also when images of one batch differ in size.
        Broken files are never tolerated here.
    """
    _check_shares(config.eval.batch_size, "config.eval.batch_size", process_count)
    from eseg_jax.input import pipeline

    source = _open_split(config, config.dataset.eval_split)
    return pipeline.close_at_exit(
        pipeline.eval_batches(source, config, process_index, process_count)
    )


def example_ids(config, split: str) -> list[str]:
    """Names of a split's examples in sorted order, the "id" of their batches."""
    from eseg_jax.input import sources

    return list(sources.open_split(config, split).ids)


def labels(config, split: str) -> tuple[list[str], Iterator[np.ndarray]]:
    """The ids of a split's examples and, one by one, their labels.

    A label is uint8 [h, w] of train ids with 255 = ignore, at its original size.

    Raises:
      InputError: the split cannot be found; while iterating, a file is broken.
    """
    from eseg_jax.input import pipeline

    source = _open_split(config, split)
    return list(source.ids), pipeline.close_at_exit(pipeline.labels(source))


def num_examples(config, split: str) -> int:
    """Number of examples in a split; InputError when it cannot be found."""
    if is_classification(config):
        return class_folders.num_examples(config, split)
    info = dataset_info(config)
    if info.layout is None:
        datasets.parts_of(info, split)
        counts = {
            "train": config.dataset.train_images,
            "train_extra": config.dataset.get("extra_images", 0),
            "val": config.dataset.eval_images,
        }
        return counts[split]
    if datasets.from_records(config.dataset):
        from eseg_jax.input import tfds_source

        return len(tfds_source.list_split(info, split, config.dataset.root)[0])
    return len(datasets.list_split(info, split, config.dataset.root).examples)


def dataset_info(config) -> DatasetInfo:
    """The row of config.dataset: class_names, colours, num_classes and more.

    Raises:
      InputError: the name is unknown, or the classes are in a file that is not there.
    """
    if is_classification(config):
        return class_folders.info(config)
    return datasets.configured(config.dataset)


def is_classification(config) -> bool:
    """Whether an image of config.dataset has one class, not one for each pixel."""
    return config.dataset.name in class_folders.NAMES


def draw_scene(config, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [h, w, 3] and label uint8 [h, w] of a built-in scene.

    Scenes of a split that fits into 1 GiB are kept in memory once drawn: drawing takes
    several times as long as all the rest of the input.
    """
    from eseg_jax.input import scenes

    abroad, size = config.dataset.name == "scenes_abroad", tuple(config.dataset.size)
    draw = scenes.draw_abroad if abroad else scenes.draw
    number = int(index) + _SCENES_START[split]
    if 4 * size[0] * size[1] * num_examples(config, split) > _SCENE_CACHE_BYTES:
        return draw(_SCENES_SEED, number, size)
    key = (abroad, number, size)
    if key not in _scene_cache:
        _scene_cache[key] = draw(_SCENES_SEED, number, size)
    return _scene_cache[key]


def _open_split(config, split: str):
    """The `sources.Source` of a split."""
    from eseg_jax.input import class_images, sources

    room = class_images if is_classification(config) else sources
    return room.open_split(config, split)


def _check_shares(batch_size: int, name: str, process_count: int) -> None:
    """InputError unless each process reads the same number of rows of a batch."""
    if batch_size < 1 or batch_size % process_count:
        raise InputError(
            f"{name}={batch_size} cannot be shared evenly by {process_count} "
            f"process{'es' if process_count > 1 else ''}; set it to a positive "
            f"multiple of {process_count}."
        )

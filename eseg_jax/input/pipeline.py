"""The tf.data pipelines behind `eseg_jax.input`.

Training is a pure function of (seed, element number): element g = step * batch_size +
row is image permutation(seed, epoch)[g % n] of epoch g // n, augmented with the key
(seed, g). A run therefore resumes from its step alone, on any number of processes.
"""

from __future__ import annotations

import atexit
import functools
import logging
import weakref
from collections.abc import Generator, Iterator, Sequence

import numpy as np

from eseg_jax.input import class_uniform, dataset_info, folders, transforms
from eseg_jax.input.datasets import IGNORE, InputError
from eseg_jax.input.sources import Source
from eseg_jax.input.tf_cpu import tf

_logger = logging.getLogger(__name__)


_open_batches: weakref.WeakSet[Generator] = weakref.WeakSet()


@atexit.register
def _close_batches() -> None:
    """Ends the pipelines while Python still runs.

    A pipeline that is freed later, in Python's own shutdown, waits for its scenes to be
    drawn, in threads that no longer get to run Python: the process would hang.
    """
    for batches in list(_open_batches):
        batches.close()


def close_at_exit(batches: Generator) -> Generator:
    """The batches; if they are still open when the program ends, they are closed."""
    _open_batches.add(batches)
    return batches


def train_batches(
    source: Source, config, start_step: int, process_index: int, process_count: int
) -> Generator[dict, None, None]:
    """See `eseg_jax.input.train_batches`."""
    batch_size = config.input.batch_size
    local = batch_size // process_count
    limit = config.input.max_broken_files
    count = len(source.ids)
    elements = functools.partial(
        _train_elements,
        count=count,
        seed=config.seed,
        batch_size=batch_size,
        rows=(process_index * local, local),
        plan=_class_uniform_plan(source, config),
    )
    broken: set[int] = set()
    step = start_step
    while True:
        stand_in = _stand_ins(count, broken)
        load = source.load_train or _load_train
        load = functools.partial(load, source, config, tf.constant(stand_in))
        dataset = elements(step).map(load, num_parallel_calls=tf.data.AUTOTUNE)
        try:
            for batch in _batched(dataset, local):
                yield _with_ids(batch, source.ids)
                step += 1
        except tf.errors.OpError as error:
            # The error does not say which file it was, but the step says which
            # elements the batch has: look at their files one by one.
            rows = [int(index) for _, index, *_ in elements(step).take(local)]
            found = _problems(source, {int(stand_in[index]) for index in rows})
            if not found:
                raise InputError(
                    f"Reading the batch of step {step} failed, though each of its "
                    f"files can be read: {folders.first_line(error)}."
                ) from error
            _tolerate(found, broken, limit, count, source.ids)


def eval_batches(
    source: Source, config, process_index: int, process_count: int
) -> Generator[dict, None, None]:
    """See `eseg_jax.input.eval_batches`."""
    batch_size = config.eval.batch_size
    local = batch_size // process_count
    count = len(source.ids)
    elements = _eval_elements(count, batch_size, (process_index * local, local))
    dataset = elements.map(
        functools.partial(source.load_eval or _load_eval, source),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    done = 0
    try:
        for batch in _batched(dataset, local):
            yield _with_ids(batch, source.ids)
            done += 1
    except tf.errors.OpError as error:
        rows = [int(i) for i, _ in elements.skip(done * local).take(local)]
        # A score over fewer images is another score: nothing is skipped here.
        for problem in _problems(source, set(rows)).values():
            raise InputError(problem) from None
        sizes: dict[tuple, int] = {}
        for index in rows:
            sizes.setdefault(tuple(source.read(index)[0].numpy()), index)
        if len(sizes) > 1:
            (a, first), (b, second), *_ = sizes.items()
            raise InputError(
                f"Images {source.ids[first]} ({a[1]}x{a[0]}) and {source.ids[second]} "
                f"({b[1]}x{b[0]}) differ in size and cannot share a batch; set "
                "--config.eval.batch_size=1."
            ) from None
        raise InputError(
            f"Reading evaluation batch {done} failed, though each of its files can be "
            f"read: {folders.first_line(error)}."
        ) from error


def labels(source: Source) -> Generator[np.ndarray, None, None]:
    """See `eseg_jax.input.labels`."""

    def load(index):
        label = source.read(index)[1](None)[1]
        return tf.gather(source.table, tf.cast(label, tf.int32))

    dataset = tf.data.Dataset.range(len(source.ids))
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    done = 0
    try:
        for label in dataset.as_numpy_iterator():
            yield label
            done += 1
    except tf.errors.OpError as error:
        raise InputError(
            source.problem(done)
            or f"Reading {source.ids[done]} failed: {folders.first_line(error)}."
        ) from None


# --------------------------------------------------------------------- which elements


def _train_elements(start_step: int, *, count, seed, batch_size, rows, plan=None):
    """This process's endless (element number, example index), int64 scalars.

    With a `plan` (epoch -> example indices, places) there is the place too, int32 [2].
    """
    first, local = rows
    start = start_step * batch_size

    def epoch_order(epoch):
        if plan:
            order, places = tf.numpy_function(plan, [epoch], [tf.int64, tf.int32])
            order = tf.ensure_shape(order, [count])
            places = tf.ensure_shape(places, [count, 2])
            return tf.data.Dataset.from_tensor_slices((order, places))
        order = tf.random.experimental.stateless_shuffle(
            tf.range(count, dtype=tf.int64), tf.stack([seed_constant, epoch])
        )
        return tf.data.Dataset.from_tensor_slices(order)

    seed_constant = tf.constant(seed, tf.int64)
    endless = np.iinfo(np.int64).max
    indices = tf.data.Dataset.range(start // count, endless).flat_map(epoch_order)
    numbers = tf.data.Dataset.range(start, endless)
    elements = tf.data.Dataset.zip((numbers, indices.skip(start % count)))
    if plan:
        elements = elements.map(lambda number, planned: (number, *planned))
    return (
        elements.batch(batch_size)
        .map(lambda *batch: tuple(part[first : first + local] for part in batch))
        .unbatch()
    )


def _class_uniform_plan(source: Source, config):
    """The `plan` of `_train_elements`, or None when all crops are random."""
    share = config.input.class_uniform
    if not share:
        return None
    table = class_uniform.load(config.input.centroids, source.ids)
    num_classes = dataset_info(config).num_classes
    if len(source.ids) * share < num_classes:
        raise InputError(
            f"config.input.class_uniform={share} of {len(source.ids)} examples is less "
            f"than one crop for each of {num_classes} classes; set it higher or to 0."
        )
    return functools.partial(
        class_uniform.epoch, table, num_classes, share, config.seed
    )


def _eval_elements(count: int, batch_size: int, rows):
    """This process's (example index, is real), the last example repeated as padding."""
    first, local = rows
    steps = -(-count // batch_size)
    numbers = np.arange(steps * batch_size).reshape(steps, batch_size)
    numbers = numbers[:, first : first + local].ravel()
    return tf.data.Dataset.from_tensor_slices(
        (np.minimum(numbers, count - 1), numbers < count)
    )


# ------------------------------------------------------------------------ one element


def _load_train(source: Source, config, stand_in, number, index, around=None):
    options = config.input
    crop = tuple(options.crop)
    if around is not None:  # another example has its classes elsewhere
        around = tf.where(stand_in[index] == index, around, class_uniform.NOWHERE)
    index = stand_in[index]
    key = tf.stack([tf.constant(config.seed, tf.int64), number])

    size, load = source.read(index)
    window = transforms.random_window(
        key,
        size,
        crop,
        tuple(options.scale),
        step=options.scale_step,
        around=around,
        long_side=options.get("long_side", 0),
    )
    box, target = transforms.place_window(window, size, crop)
    image, label = load(box)
    if source.doubt:
        label = source.doubt(index, box, label, key)
    example = {"image": image, "label": label}
    example = transforms.resize(example, target[2:], source.table)
    example = transforms.random_colour(
        example,
        key,
        brightness=options.brightness,
        contrast=options.contrast,
        saturation=options.saturation,
        hue=options.hue,
    )
    example = transforms.random_blur(example, key, tuple(options.blur))
    example = transforms.pad_to(example, target[:2], crop)
    if options.flip:
        example = transforms.random_flip(example, key)
    return example | {"index": index}


def _load_eval(source: Source, index, real):
    image, label = source.read(index)[1](None)
    label = tf.gather(source.table, tf.cast(label, tf.int32))
    return {
        "image": image,
        "label": tf.where(real, label, tf.constant(IGNORE, tf.uint8)),
        "index": tf.where(real, index, -1),
        "mask": real,
    }


# ------------------------------------------------------------------------------ helpers


def _batched(dataset, size: int) -> Iterator[dict]:
    options = tf.data.Options()
    options.deterministic = True
    dataset = dataset.batch(size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    return dataset.with_options(options).as_numpy_iterator()


def _with_ids(batch: dict, ids: Sequence[str]) -> dict:
    """The batch with "id" (a list of names, "" for padding) instead of "index"."""
    indices = batch.pop("index")
    return batch | {"id": [ids[i] if i >= 0 else "" for i in indices]}


def _stand_ins(count: int, broken: set[int]) -> np.ndarray:
    """int64 [count]: each index itself or, if broken, the next one that is not.

    The rule looks at the files only, so every process and every resumed run comes to
    the same replacement.
    """
    stand_in = np.arange(count)
    for index in broken:
        while stand_in[index] in broken:
            stand_in[index] = (stand_in[index] + 1) % count
    return stand_in


def _problems(source: Source, indices: set[int]) -> dict[int, str]:
    problems = {index: source.problem(index) for index in sorted(indices)}
    return {index: problem for index, problem in problems.items() if problem}


def _tolerate(found: dict[int, str], broken: set[int], limit, count, ids) -> None:
    """Logs each broken example and adds it to `broken`; InputError beyond the limit."""
    for index, problem in found.items():
        broken.add(index)
        if len(broken) > limit or len(broken) == count:
            raise InputError(
                f"{problem} This is broken example number {len(broken)} and "
                f"config.input.max_broken_files is {limit}."
            ) from None
        _logger.warning(
            "broken example %d (at most %d are tolerated): %s The next readable "
            "example after %s takes its place.",
            len(broken),
            limit,
            problem,
            ids[index],
        )

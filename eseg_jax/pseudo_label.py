"""A trained network labels images: `--mode=pseudo_label` (ESeg §4.4).

The images are cut into units of a few neighbours, and everything is a function of the
unit alone: process p of P takes every P-th one, and a unit that a killed run left
unfinished is made again whole. So neither the number of processes nor a restart changes
a byte. Reading, the device and writing overlap.
"""

from __future__ import annotations

import collections
import concurrent.futures
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from eseg_jax import checkpoint, inference, job, models, sharding, steps, trees
from eseg_jax import pseudo_output as output
from eseg_jax.config import validate
from eseg_jax.input import pseudo, unlabelled
from eseg_jax.protocols import Protocol
from eseg_jax.report.progress import progress

_logger = logging.getLogger(__name__)

_UNIT = 4  # batches whose images may be grouped by size


def pseudo_label(config: ConfigDict, workdir: str) -> dict[str, Any]:
    """Labels what `config.pseudo` says with the network of `workdir`.

    Writes the folder that `input.pseudo` describes and returns its pseudo.json. The
    same command goes on after a stop. Images that cannot be read are named and counted
    and do not stop it.

    Raises:
      ValueError: there is no network, no image, or the output folder belongs to other
        settings.
    """
    # ---- Teacher, images, settings ---------------------------------------------
    validate(config)
    options = config.pseudo
    network = inference.load_network(workdir, options.weights)
    root, items, what = unlabelled.find(config)
    out = epath.Path(options.output or epath.Path(workdir) / "pseudo" / what["name"])
    levels = pseudo.levels(
        options.threshold, options.class_thresholds, len(network.class_names)
    )
    protocol = Protocol(scales=tuple(options.scales), flip=options.flip)
    size_step = options.size_step or unlabelled.choose_step(items)
    settings = _settings(config, network, what, root, protocol, size_step)
    index, count = jax.process_index(), jax.process_count()
    output.claim(out, settings)

    # ---- What is left to do ----------------------------------------------------
    # A process says that it has finished by a file; those of an earlier run do not
    # count.
    manifest = output.open_manifest(out, index, count)
    marks = [out / "parts" / f"{p}-of-{count}.done" for p in range(count)]
    marks[index].unlink(missing_ok=True)
    job.wait_for_processes("pseudo-labels begin")
    records = output.read_records(out)
    done = {name for name, record in records.items() if "broken" not in record}
    axes = {"data": -1, "spatial": config.mesh.spatial}
    mesh = sharding.make_mesh(axes, jax.local_devices())
    batch_size = options.batch_size * mesh.shape["data"]
    units = _chunks(items, options.shard_images or batch_size * _UNIT)
    units = {
        number: unit
        for number, unit in list(enumerate(units))[index::count]
        if not done.issuperset(item.name for item in unit)
    }
    left = sum(map(len, units.values()))
    _logger.info("%d images to label in %s, %d of them here.", len(items), out, left)

    # ---- Read, predict, write --------------------------------------------------
    predict = _predictor(network, protocol, size_step, mesh)
    with concurrent.futures.ThreadPoolExecutor(output.THREADS) as pool:
        results = _label(units.values(), batch_size, size_step, predict, pool)
        if options.shard_images:
            records = output.write_shards(out, results, levels, pool, units)
        else:
            records = output.write_files(out, results, levels, pool)
        for record in progress(records, left, "images labelled"):
            manifest.write(output.line(record))
    manifest.flush(force=True)

    # ---- Merge -----------------------------------------------------------------
    marks[index].write_text("")
    if index > 0:
        _wait_until(lambda: not marks[0].parent.exists())
        return pseudo.read_meta(out)
    _wait_until(lambda: all(mark.exists() for mark in marks))
    meta = output.finish(out, settings, network, items, levels, options.top_fraction)
    marks[0].parent.rmtree()
    return meta


# ------------------------------------------------------------------------- the settings


def _settings(config, network, what, root, protocol, size_step) -> dict[str, Any]:
    """What decides the labels: the first part of pseudo.json."""
    options = config.pseudo
    return {
        "teacher": {
            "checkpoint": os.fspath(network.folder),
            "weights": options.weights,
            "sha256": _fingerprint(network.variables),
            "config": network.config.to_dict(),
        },
        "trained_on": trained_on(network.config),
        "labelled": what,
        "root": root,
        "class_names": list(network.class_names),
        "colours": network.colours.tolist(),
        "protocol": str(protocol),
        "size_step": size_step,
        "threshold": options.threshold,
        "class_thresholds": list(options.class_thresholds),
        "top_fraction": options.top_fraction,
        "shard_images": options.shard_images,
    }


def trained_on(config: ConfigDict) -> list[dict[str, str]]:
    """The splits whose images a run's network has learnt from, in any round."""
    seen, folders = [], set()
    while True:
        dataset = config.dataset
        own = {"dataset": dataset.name, "split": dataset.train_split}
        seen.append(own | {"root": dataset.root})
        if dataset.get("pseudo", ""):
            meta = pseudo.read_meta(dataset.pseudo)
            seen += [*meta["trained_on"], meta["labelled"]]
        if not config.get("init_from", ""):
            return seen
        try:
            folder = checkpoint.find(config.init_from)
        except checkpoint.CheckpointError:
            return seen  # converted from elsewhere
        if folder in folders:  # workdirs were renamed to each other's names
            return seen
        folders.add(folder)
        config = ConfigDict(json.loads(checkpoint.read_meta(folder)["config"]))


def _fingerprint(variables) -> str:
    """sha256 of the names and numbers of the weights."""
    digest = hashlib.sha256()
    for name, leaf in sorted(trees.flatten_names(variables).items()):
        digest.update(name.encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


# ------------------------------------------------------------------------- the pipeline


def _label(units, batch_size: int, size_step: int, predict, pool) -> Iterator[tuple]:
    """(item, data, (argmax, confidence)), or (item, None, what is wrong with it).

    `data` is what the item's `load` returned. The next images are read while these are
    on the device, and the next batch is given to the device before the last one is
    fetched.
    """
    running: collections.deque = collections.deque()
    few = [part for unit in units for part in _chunks(unit, batch_size * _UNIT)]
    for part in _read_ahead(few, pool):
        groups: dict[tuple, list] = {}
        for item, found in part:
            if isinstance(found, str):
                yield item, None, found
                continue
            data, image = found
            size = tuple(-(-side // size_step) * size_step for side in image.shape[:2])
            groups.setdefault(size, []).append((item, data, image))
        for size, members in groups.items():
            for batch in _chunks(members, batch_size):
                images = np.zeros((batch_size, *size, 3), np.uint8)
                sizes = np.full((batch_size, 2), size, np.int32)
                for row, (_, _, image) in enumerate(batch):
                    images[row, : image.shape[0], : image.shape[1]] = image
                    sizes[row] = image.shape[:2]
                running.append((batch, predict(images, sizes)))
                if len(running) > 1:
                    yield from _fetch(*running.popleft())
    while running:
        yield from _fetch(*running.popleft())


def _fetch(batch, found) -> Iterator[tuple]:
    argmax, confidence = map(np.asarray, (found["argmax"], found["confidence"]))
    for row, (item, data, image) in enumerate(batch):
        part = (row, *map(slice, image.shape[:2]))
        yield item, data, (argmax[part], confidence[part])


def _read_ahead(parts: list[list], pool) -> Iterator[list[tuple]]:
    """The items of each part with what `try_read` says, one part ahead of its use."""
    ahead: collections.deque = collections.deque()
    for part in [*parts, None]:
        if part is not None:
            ahead.append([(item, pool.submit(item.try_read)) for item in part])
        while ahead and (len(ahead) > 1 or part is None):
            yield [(item, read.result()) for item, read in ahead.popleft()]


def jit_label_step(name: str, model, protocol: Protocol, stretch: bool, mesh):
    """Compiles `steps.make_label_step` for a mesh; `name` is the model's.

    Images and sizes come as `sharding.of_batch` places them.
    """
    info = models.info(name)
    split, whole = sharding.batched(mesh), sharding.replicated(mesh)
    step = steps.make_label_step(
        model, mean=info.mean, std=info.std, protocol=protocol, stretch=stretch
    )
    return jax.jit(step, in_shardings=(whole, None, None), out_shardings=split)


def _predictor(network, protocol: Protocol, size_step: int, mesh):
    """(images, sizes) -> arrays that are still being computed, on the local devices."""
    name = network.config.model.name
    step = jit_label_step(name, network.model, protocol, size_step > 1, mesh)
    variables = jax.device_put(network.variables, sharding.replicated(mesh))
    seen: set[tuple] = set()

    def predict(images, sizes):
        if images.shape not in seen:
            seen.add(images.shape)
            _logger.info(
                "Compiling for size %d: %dx%d.", len(seen), *images.shape[2:0:-1]
            )
        with jax.set_mesh(mesh):
            batch = {"image": images, "size": sizes}
            batch = jax.device_put(batch, sharding.of_batch(batch, mesh))
            return step(variables, batch["image"], batch["size"])

    return predict


# ------------------------------------------------------------------------------ helpers


def _chunks(items: list, size: int) -> list[list]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _wait_until(ready: Callable[[], bool]) -> None:
    while not ready():
        time.sleep(0.2)

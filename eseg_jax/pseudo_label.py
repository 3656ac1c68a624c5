"""A trained network labels images: `--mode=pseudo_label` (ESeg §4.4).

The images are cut into units of a few neighbours, and everything is a function of the
unit alone: process p of P takes every P-th one, and a unit that a killed run left
unfinished is made again whole. So neither the number of processes nor a restart changes
a byte. Reading, the device and writing overlap.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import glob
import hashlib
import io
import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from eseg_jax import checkpoint, inference, input, models, sharding, steps, trees
from eseg_jax.config import validate
from eseg_jax.input import datasets, pseudo
from eseg_jax.input.datasets import InputError
from eseg_jax.protocols import Protocol
from eseg_jax.report import panels
from eseg_jax.report.files import GrowingFile, write_bytes, write_text

_logger = logging.getLogger(__name__)

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
_THREADS = 8  # read, encode and write
_UNIT = 4  # batches whose images may be grouped by size
_SAMPLE, _FEW_SIZES, _STEP = 256, 8, 64  # how `size_step` is chosen
_SHEET = 8  # images on the contact sheet


@dataclasses.dataclass(frozen=True)
class Item:
    """An image to label: its name among the results, and how its pixels are had.

    `image` is the file below the input's root, "" if it is in none.
    """

    name: str
    image: str
    read: Callable[[], np.ndarray]


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
    root, items, what = find(config)
    out = epath.Path(options.output or epath.Path(workdir) / "pseudo" / what["name"])
    levels = pseudo.levels(
        options.threshold, options.class_thresholds, len(network.class_names)
    )
    protocol = Protocol(scales=tuple(options.scales), flip=options.flip)
    size_step = options.size_step or _choose_step(items)
    settings = _settings(config, network, what, root, protocol, size_step)
    index, count = jax.process_index(), jax.process_count()
    parts = out / "parts"
    _claim(out, settings)

    # ---- What is left to do ----------------------------------------------------
    # A process says that it has finished by a file; those of an earlier run do not
    # count.
    done_mark = parts / f"{index}-of-{count}.done"
    done_mark.unlink(missing_ok=True)
    sharding.wait_for_processes("pseudo-labels begin")
    done = {name for name, r in _records(out).items() if "broken" not in r}
    devices = jax.local_devices()
    batch_size = options.batch_size * len(devices)
    units = [
        unit
        for unit in _chunks(items, batch_size * _UNIT)[index::count]
        if not done.issuperset(item.name for item in unit)
    ]
    left = sum(map(len, units))
    _logger.info("%d images to label in %s, %d of them here.", len(items), out, left)

    # ---- Read, predict, write --------------------------------------------------
    predict = _predictor(network, protocol, size_step, devices)
    manifest = GrowingFile(*_own_part(parts, index, count))
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        save = functools.partial(_save, out, levels=levels)
        results = _label(units, batch_size, size_step, predict, pool)
        writes: collections.deque = collections.deque()
        for item, image, found in _progress(results, left):
            if isinstance(found, str):
                _logger.warning("broken image: %s", found)
                record = {"name": item.name, "image": item.image, "broken": found}
                manifest.write(_line(record))
                continue
            writes.append(pool.submit(save, item, image, *found))
            # Written files first, then their line: the manifest never promises.
            while len(writes) > 4 * _THREADS or (writes and writes[0].done()):
                manifest.write(_line(writes.popleft().result()))
        for write in writes:
            manifest.write(_line(write.result()))
    manifest.flush(force=True)

    # ---- Merge -----------------------------------------------------------------
    done_mark.write_text("")
    if index == 0:
        marks = [parts / f"{p}-of-{count}.done" for p in range(count)]
        _wait_until(lambda: all(mark.exists() for mark in marks))
        meta = _finish(out, settings, network, items, levels, options.top_fraction)
        parts.rmtree()
    else:
        _wait_until(lambda: not parts.exists())
    return meta if index == 0 else pseudo.read_meta(out)


# ---------------------------------------------------------------------------- the input


def find(config: ConfigDict) -> tuple[str, list[Item], dict[str, str]]:
    """The root of the images to label, the images, and what they are in words.

    Raises:
      InputError: there are none, or two have one name.
    """
    options, dataset = config.pseudo, config.dataset
    info = None if options.images else datasets.configured(dataset)
    if info is not None and info.layout is None:  # drawn, in no file
        count = input.num_examples(config, options.split)
        items = [
            Item(
                f"{options.split}_{i:06d}",
                "",
                functools.partial(_draw, config, options.split, i),
            )
            for i in range(count)
        ]
        what = {"name": options.split, "dataset": dataset.name, "split": options.split}
        return "", items, what
    if info is not None and datasets.from_records(dataset):
        raise InputError(
            f"Images in records, as those of config.dataset.source={dataset.source!r}, "
            "cannot be labelled: a student reads files; give config.pseudo.images."
        )
    if info is None:
        root, paths = _matching(options.images)
        what = {"name": "images", "images": options.images}
    else:
        root, _ = datasets.open_root(info, dataset.root)
        examples = datasets.list_images(info, options.split, dataset.root)
        paths = [epath.Path(example.image) for example in examples]
        what = {
            "name": options.split,
            "dataset": dataset.name,
            "split": options.split,
            "root": dataset.root,
        }
    relative = [path.relative_to(root).as_posix() for path in paths]
    stems = collections.Counter(os.path.splitext(name)[0] for name in relative)
    items = []
    for name, path in zip(relative, paths, strict=True):
        stem = os.path.splitext(name)[0]
        read = functools.partial(read_pixels, os.fspath(path))
        items.append(Item(stem if stems[stem] == 1 else name, name, read))
    return os.fspath(root), items, what


def _draw(config: ConfigDict, split: str, index: int) -> np.ndarray:
    image, _ = input.draw_scene(config, split, index)
    return image


def _matching(text: str) -> tuple[epath.Path, list[epath.Path]]:
    """The folder above all images, and the images, of a folder or a pattern."""
    path = epath.Path(text).expanduser()
    if path.is_dir():
        found = [p for p in _below(path) if p.suffix.lower() in _SUFFIXES]
        root = path
    else:
        # The components before the first one that is a pattern.
        fixed = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
        root = epath.Path(*fixed)
        if root == path or not root.is_dir():
            raise InputError(
                f"config.pseudo.images={text!r} is no folder and no pattern of files; "
                "quote a pattern such as 'frames/*.jpg'."
            )
        pattern = path.relative_to(root).as_posix()
        if "**" in pattern:
            raise InputError(
                f"config.pseudo.images={text!r} has a '**'; give the folder instead, "
                "whose images are found at any depth."
            )
        found = list(root.glob(pattern))
    if not found:
        raise InputError(
            f"config.pseudo.images={text!r} finds no image ({' '.join(_SUFFIXES)})."
        )
    return root, sorted(found)


def _below(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _below(path)
        else:
            yield path


def read_pixels(path: str) -> np.ndarray:
    """uint8 [h, w, 3] RGB, as it is stored: the training input does not turn it."""
    with epath.Path(path).open("rb") as file, Image.open(file) as opened:
        return np.asarray(opened.convert("RGB"))


def _choose_step(items: list[Item]) -> int:
    """1 if a sample of the images has few sizes, so that each may be compiled for."""
    sizes = set()
    for item in items[:: -(-len(items) // _SAMPLE)]:
        if not item.image:
            return 1
        try:
            with epath.Path(item.read.args[0]).open("rb") as file:
                sizes.add(Image.open(file).size)
        except (OSError, SyntaxError):
            continue  # named when it is its turn
    return 1 if len(sizes) <= _FEW_SIZES else _STEP


# ------------------------------------------------------------------------- the pipeline


def _label(units, batch_size: int, size_step: int, predict, pool) -> Iterator[tuple]:
    """(item, image, (argmax, confidence)), or (item, None, what is wrong with it).

    The next unit is read while this one is on the device, and the next batch is given
    to the device before the last one is fetched.
    """
    running: collections.deque = collections.deque()
    for unit in _read_ahead(units, pool):
        groups: dict[tuple, list] = {}
        for item, image in unit:
            if isinstance(image, str):
                yield item, None, image
                continue
            size = tuple(-(-side // size_step) * size_step for side in image.shape[:2])
            groups.setdefault(size, []).append((item, image))
        for size, members in groups.items():
            for batch in _chunks(members, batch_size):
                images = np.zeros((batch_size, *size, 3), np.uint8)
                sizes = np.full((batch_size, 2), size, np.int32)
                for row, (_, image) in enumerate(batch):
                    images[row, : image.shape[0], : image.shape[1]] = image
                    sizes[row] = image.shape[:2]
                running.append((batch, predict(images, sizes)))
                if len(running) > 1:
                    yield from _fetch(*running.popleft())
    while running:
        yield from _fetch(*running.popleft())


def _fetch(batch, found) -> Iterator[tuple]:
    argmax, confidence = map(np.asarray, (found["argmax"], found["confidence"]))
    for row, (item, image) in enumerate(batch):
        part = (row, *map(slice, image.shape[:2]))
        yield item, image, (argmax[part], confidence[part])


def _read_ahead(units, pool) -> Iterator[list[tuple]]:
    """Units with their images, or a sentence for each that cannot be read."""
    waiting: collections.deque = collections.deque()
    for unit in [*units, None]:
        if unit is not None:
            waiting.append([(item, pool.submit(_try_read, item)) for item in unit])
        while waiting and (len(waiting) > 1 or unit is None):
            yield [(item, image.result()) for item, image in waiting.popleft()]


def _try_read(item: Item) -> np.ndarray | str:
    try:
        return item.read()
    # Pillow's word for a broken PNG is SyntaxError.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"{item.image}: {' '.join(str(error).split())}"


def _predictor(network, protocol: Protocol, size_step: int, devices):
    """(images, sizes) -> arrays that are still being computed, on the local devices."""
    info = models.info(network.config.model.name)
    mesh = sharding.make_mesh({"data": len(devices)}, devices)
    split, whole = sharding.batched(mesh), sharding.replicated(mesh)
    step = steps.make_label_step(
        network.model,
        mean=info.mean,
        std=info.std,
        protocol=protocol,
        stretch=size_step > 1,
    )
    step = jax.jit(step, in_shardings=(whole, split, split), out_shardings=split)
    variables = jax.device_put(network.variables, whole)
    seen: set[tuple] = set()

    def predict(images, sizes):
        if images.shape not in seen:
            seen.add(images.shape)
            _logger.info(
                "Compiling for size %d: %dx%d.", len(seen), *images.shape[2:0:-1]
            )
        with jax.set_mesh(mesh):
            return step(variables, *jax.device_put((images, sizes), split))

    return predict


# --------------------------------------------------------------------------- the output


def _save(out, item: Item, image, argmax, confidence, *, levels) -> dict[str, Any]:
    """Writes the files of an image and returns its line of the manifest."""
    label = pseudo.keep(argmax, confidence, levels)
    files = {"argmax": argmax, "confidence": confidence, "labels": label}
    if not item.image:
        files["images"] = image
    for folder, pixels in files.items():
        write_bytes(out / folder / f"{item.name}.png", _png(pixels))
    classes = len(levels)
    return {
        "name": item.name,
        "image": item.image,
        "size": list(argmax.shape),
        "predicted": np.bincount(argmax.ravel(), minlength=classes).tolist(),
        "kept": np.bincount(label.ravel(), minlength=256)[:classes].tolist(),
    }


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", compress_level=2)
    return buffer.getvalue()


def _line(record: dict) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _own_part(parts, index: int, count: int) -> tuple[Any, bytes]:
    """This process's part of the manifest and the whole lines it has."""
    parts.mkdir(parents=True, exist_ok=True)
    path = parts / f"{index}-of-{count}.jsonl"
    data = path.read_bytes() if path.exists() else b""
    return path, data[: data.rfind(b"\n") + 1]


def _records(out) -> dict[str, dict]:
    """name -> record of all that is labelled, by whatever number of processes."""
    files = [out / "manifest.jsonl", *sorted(out.glob("parts/*.jsonl"))]
    records = {}
    for file in files:
        data = file.read_bytes() if file.exists() else b""
        for line in data[: data.rfind(b"\n") + 1].splitlines():
            record = json.loads(line)
            if "broken" not in record or record["name"] not in records:
                records[record["name"]] = record
    return records


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
    }


def trained_on(config: ConfigDict) -> list[dict[str, str]]:
    """The splits whose images a run's network has learnt from, in any round."""
    dataset = config.dataset
    own = {"dataset": dataset.name, "split": dataset.train_split, "root": dataset.root}
    seen = [own]
    if dataset.get("pseudo", ""):
        meta = pseudo.read_meta(dataset.pseudo)
        seen += [*meta["trained_on"], meta["labelled"]]
    if config.get("init_from", ""):
        try:
            folder = checkpoint.find(config.init_from)
        except checkpoint.CheckpointError:
            return seen  # converted from elsewhere
        meta = checkpoint.read_meta(folder)
        seen += trained_on(ConfigDict(json.loads(meta["config"])))
    return seen


def _fingerprint(variables) -> str:
    """sha256 of the names and numbers of the weights."""
    digest = hashlib.sha256()
    for name, leaf in sorted(trees.flatten_names(variables).items()):
        digest.update(name.encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _claim(out, settings: dict) -> None:
    """Marks the folder as that of these settings, or goes on where it stopped."""
    path = out / "pseudo.json"
    settings = json.loads(json.dumps(settings))  # tuples become lists
    if path.exists():
        there = json.loads(path.read_text())
        other = [name for name in settings if there.get(name) != settings[name]]
        if other:
            raise InputError(
                f"{out} holds pseudo-labels that differ in {', '.join(other)}; give "
                "another --config.pseudo.output, or remove the folder."
            )
    elif jax.process_index() == 0:
        write_text(path, json.dumps(settings, indent=2) + "\n")


def _finish(out, settings, network, items, levels, top_fraction) -> dict[str, Any]:
    """Writes what is about all images, pseudo.json last."""
    found = _records(out)
    records = [found[item.name] for item in items]
    good = [record for record in records if "broken" not in record]
    if not good:
        raise InputError(f"None of the {len(items)} images can be read; see the log.")
    if top_fraction < 1:
        counts = histogram(out, good, len(levels))
        levels = np.maximum(levels, pseudo.top_levels(counts, top_fraction))
        good = relabel(out, out, good, levels)
        found = {record["name"]: record for record in good}
        records = [found.get(record["name"], record) for record in records]
    write_bytes(out / "manifest.jsonl", b"".join(map(_line, records)))
    write_bytes(out / "contact_sheet.png", _contact_sheet(out, settings, good, network))
    meta = settings | summary(records, levels, network.class_names)
    write_text(out / "pseudo.json", json.dumps(meta, indent=2) + "\n")
    _logger.info(
        "%d images labelled, %d broken, %.1f %% of the pixels kept: %s",
        meta["images"],
        len(meta["broken"]),
        100 * meta["coverage"],
        out,
    )
    return meta


def _contact_sheet(out, settings, records, network) -> bytes:
    """Some images with their labels and confidences, one a row, over the legend."""
    rows, width = [], 320
    for record in records[:: -(-len(records) // _SHEET)]:
        image = epath.Path(settings["root"]) / record["image"]
        if not record["image"]:
            image = out / "images" / f"{record['name']}.png"
        label, confidence = (
            read_pixels(os.fspath(out / folder / f"{record['name']}.png"))[..., 0]
            for folder in ("labels", "confidence")
        )
        tiles = (
            read_pixels(os.fspath(image)),
            panels.colourise(label, network.colours),
            np.repeat(confidence[..., None], 3, axis=-1),
        )
        height = max(1, round(width * label.shape[0] / label.shape[1]))
        tiles = [np.asarray(Image.fromarray(x).resize((width, height))) for x in tiles]
        rows.append(np.concatenate(tiles, axis=1))
    entries = zip(network.class_names, network.colours, strict=True)
    rows.append(panels.legend([*entries, ("ignored", panels.IGNORED)], 3 * width, 12))
    return _png(np.concatenate(rows))


# -------------------------------------------------------------------- other thresholds


def histogram(folder, records, classes: int) -> np.ndarray:
    """int64 [c, 256]: the pixels of each class and confidence byte."""

    def one(record):
        argmax, confidence = pseudo.read_answer(folder, record["name"])
        at = argmax.astype(np.int64) * 256 + confidence
        return np.bincount(at.ravel(), minlength=classes * 256)

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        total = sum(pool.map(one, records), np.zeros(classes * 256, np.int64))
    return total.reshape(classes, 256)


def relabel(folder, out, records: list[dict], levels: np.ndarray) -> list[dict]:
    """Writes the labels of other levels into `out` and returns the new records."""

    def one(record):
        label = pseudo.keep(*pseudo.read_answer(folder, record["name"]), levels)
        write_bytes(epath.Path(out) / "labels" / f"{record['name']}.png", _png(label))
        kept = np.bincount(label.ravel(), minlength=256)[: len(levels)]
        return record | {"kept": kept.tolist()}

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(one, records))


def summary(records: list[dict], levels: np.ndarray, class_names) -> dict[str, Any]:
    """The second part of pseudo.json: counts in pixels, coverage as shares."""
    good = [record for record in records if "broken" not in record]
    predicted = np.sum([record["predicted"] for record in good], axis=0)
    kept = np.sum([record["kept"] for record in good], axis=0)
    return {
        "images": len(good),
        "broken": [record["broken"] for record in records if "broken" in record],
        "pixels": int(predicted.sum()),
        "coverage": int(kept.sum()) / int(predicted.sum()),
        "classes": {
            name: {
                "predicted": int(p),
                "kept": int(k),
                "coverage": int(k) / int(p) if p else None,
                "level": int(level),
            }
            for name, p, k, level in zip(
                class_names, predicted, kept, levels, strict=True
            )
        },
    }


# ------------------------------------------------------------------------------ helpers


def _chunks(items: list, size: int) -> list[list]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _progress(results: Iterable, total: int) -> Iterator:
    """Passes the results on and logs the rate from time to time."""
    start = last = time.monotonic()
    for number, result in enumerate(results, start=1):
        yield result
        now = time.monotonic()
        if now - last > 30 or number == total:
            last, rate = now, number / (now - start)
            _logger.info("%d of %d images, %.3g images/s", number, total, rate)


def _wait_until(ready: Callable[[], bool]) -> None:
    while not ready():
        time.sleep(0.2)

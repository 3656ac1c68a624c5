"""What --mode=pseudo_label writes: answers, manifest, pseudo.json, contact sheet.

`input.pseudo` describes the folder. No file has its final name before it is complete,
and a line of the manifest is written after the files that it speaks of.
"""

from __future__ import annotations

import collections
import concurrent.futures
import io
import json
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from PIL import Image

from eseg_jax.input import InputError, pseudo, unlabelled
from eseg_jax.report import panels
from eseg_jax.report.files import GrowingFile, write_bytes, write_text

THREADS = 8  # read, encode and write
_WAITING = 4 * THREADS  # answers that may wait to be written
_SHEET = 8  # images on the contact sheet
_logger = logging.getLogger(__name__)


# -------------------------------------------------------------------------- the answers


def write_files(out, results: Iterable[tuple], levels, pool) -> Iterator[dict]:
    """Writes label, argmax and confidence of each image to files of their own.

    Args:
      out: the folder.
      results: (item, image, (argmax, confidence)), or (item, None, what is wrong).
      levels: the lowest byte that each class keeps.
      pool: of threads that encode and write.

    Yields:
      The record of each image, in the order of `results`, when its files are there.
    """
    writes: collections.deque = collections.deque()
    for item, image, found in results:
        if isinstance(found, str):
            _logger.warning("broken image: %s", found)
            yield {"name": item.name, "image": item.image, "broken": found}
            continue
        writes.append(pool.submit(_save, out, item, image, *found, levels=levels))
        while len(writes) > _WAITING or (writes and writes[0].done()):
            yield writes.popleft().result()
    for write in writes:
        yield write.result()


def _save(out, item, image, argmax, confidence, *, levels) -> dict[str, Any]:
    """Writes the files of an image and returns its record."""
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


# --------------------------------------------------------------------------- the folder


def claim(out, settings: dict) -> None:
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


def line(record: dict) -> bytes:
    return json.dumps(record).encode() + b"\n"


def open_manifest(out, index: int, count: int) -> GrowingFile:
    """The part of the manifest that process `index` of `count` writes."""
    parts = out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    path = parts / f"{index}-of-{count}.jsonl"
    data = path.read_bytes() if path.exists() else b""
    return GrowingFile(path, data[: data.rfind(b"\n") + 1])  # the whole lines


def read_records(out) -> dict[str, dict]:
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


def finish(out, settings, network, items, levels, top_fraction) -> dict[str, Any]:
    """Writes what is about all images, pseudo.json last."""
    found = read_records(out)
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
    write_bytes(out / "manifest.jsonl", b"".join(map(line, records)))
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
        file = f"{record['name']}.png"
        image = epath.Path(settings["root"]) / record["image"]
        image = image if record["image"] else out / "images" / file
        label = pseudo.read_png(out / "labels" / file)
        confidence = pseudo.read_png(out / "confidence" / file)
        tiles = (
            unlabelled.decode(image.read_bytes()),
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

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        total = sum(pool.map(one, records), np.zeros(classes * 256, np.int64))
    return total.reshape(classes, 256)


def relabel(folder, out, records: list[dict], levels: np.ndarray) -> list[dict]:
    """Writes the labels of other levels into `out` and returns the new records."""

    def one(record):
        label = pseudo.keep(*pseudo.read_answer(folder, record["name"]), levels)
        write_bytes(epath.Path(out) / "labels" / f"{record['name']}.png", _png(label))
        kept = np.bincount(label.ravel(), minlength=256)[: len(levels)]
        return record | {"kept": kept.tolist()}

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
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

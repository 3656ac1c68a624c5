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
      results: (item, its data, (argmax, confidence)), or (item, None, what is wrong).
      levels: the lowest byte that each class keeps.
      pool: of threads that encode and write.

    Yields:
      The line of each image in the manifest, when its files are there.
    """
    writes: collections.deque = collections.deque()
    for item, data, found in results:
        if isinstance(found, str):
            yield _broken(item, found)
            continue
        writes.append(pool.submit(_save, out, item, data, *found, levels=levels))
        while len(writes) > _WAITING or (writes and writes[0].done()):
            yield writes.popleft().result()
    for write in writes:
        yield write.result()


def _save(out, item, data, argmax, confidence, *, levels) -> dict[str, Any]:
    """Writes the files of an image and returns its line of the manifest."""
    label = pseudo.keep(argmax, confidence, levels)
    files = {"argmax": argmax, "confidence": confidence, "labels": label}
    if not item.image:
        files["images"] = unlabelled.decode(data)
    for folder, pixels in files.items():
        write_bytes(out / folder / f"{item.name}.png", _png(pixels))
    return _counts(item, argmax, label, levels)


def write_shards(
    out, results: Iterable[tuple], levels, pool, shards: dict[int, list]
) -> Iterator[dict]:
    """As `write_files`, but images and answers go to TFRecord shards.

    Args:
      out, results, levels, pool: see `write_files`.
      shards: number -> items; a shard is written when there is a result for each.
    """
    number_of = {item.name: n for n, items in shards.items() for item in items}
    ready: dict[int, dict] = collections.defaultdict(dict)
    encoding: collections.deque = collections.deque()
    writes: collections.deque = collections.deque()
    # A pool of its own, as a shard waits for what the other encodes.
    with concurrent.futures.ThreadPoolExecutor(1) as writer:
        for item, data, found in results:
            number = number_of[item.name]
            answers = ready[number]
            if isinstance(found, str):
                answers[item.name] = _broken(item, found), None
            else:
                answer = pool.submit(_encode, item, data, *found, levels=levels)
                encoding.append(answer)
                answers[item.name] = answer
            if len(encoding) > _WAITING:
                encoding.popleft().result()
            if len(answers) == len(shards[number]):
                answers = [answers[item.name] for item in shards[number]]
                writes.append(writer.submit(_write_shard, out, number, answers))
                del ready[number]
            while len(writes) > 1 or (writes and writes[0].done()):
                yield from writes.popleft().result()
        for write in writes:
            yield from write.result()


def _encode(item, data, argmax, confidence, *, levels) -> tuple[dict, dict]:
    """The line of an image in the manifest and the features of its record."""
    label = pseudo.keep(argmax, confidence, levels)
    if not isinstance(data, bytes) or not data.startswith((b"\x89PNG", b"\xff\xd8")):
        data = _png(unlabelled.decode(data))
    features = {
        "id": item.name.encode(),
        "image": data,
        "argmax": _png(argmax),
        "confidence": _png(confidence),
    }
    return _counts(item, argmax, label, levels), features


def _write_shard(out, number: int, answers: list) -> list[dict]:
    """Writes a shard and returns the lines of its images, broken ones among them."""
    from eseg_jax.input import pseudo_records

    pairs = [x if isinstance(x, tuple) else x.result() for x in answers]
    name = f"records/{number:06d}.tfrecord"
    data, places = pseudo_records.pack([x for _, x in pairs if x is not None])
    write_bytes(out / name, data)
    places = iter(places)
    return [
        line if features is None else line | {"shard": name, "place": next(places)}
        for line, features in pairs
    ]


def _broken(item, problem: str) -> dict[str, str]:
    _logger.warning("broken image: %s", problem)
    return {"name": item.name, "image": item.image, "broken": problem}


def _counts(item, argmax, label, levels) -> dict[str, Any]:
    """The line of an image in the manifest; `relabel` knows the last part, too."""
    return {
        "name": item.name,
        "image": item.image,
        "size": list(argmax.shape),
        "predicted": np.bincount(argmax.ravel(), minlength=len(levels)).tolist(),
        "kept": _kept(label, levels),
    }


def _kept(label, levels) -> list[int]:
    """The pixels of each class that have a label."""
    return np.bincount(label.ravel(), minlength=256)[: len(levels)].tolist()


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
    write_bytes(
        out / "contact_sheet.png", _contact_sheet(out, settings, good, levels, network)
    )
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


def _contact_sheet(out, settings, records, levels, network) -> bytes:
    """Some images with their labels and confidences, one a row, over the legend."""
    rows, width = [], 320
    for record in records[:: -(-len(records) // _SHEET)]:
        argmax, confidence = pseudo.read_answer(out, record)
        label = pseudo.keep(argmax, confidence, levels)
        tiles = (
            _image(out, settings["root"], record),
            panels.colourise(label, network.colours),
            np.repeat(confidence[..., None], 3, axis=-1),
        )
        height = max(1, round(width * label.shape[0] / label.shape[1]))
        tiles = [np.asarray(Image.fromarray(x).resize((width, height))) for x in tiles]
        rows.append(np.concatenate(tiles, axis=1))
    entries = zip(network.class_names, network.colours, strict=True)
    rows.append(panels.legend([*entries, ("ignored", panels.IGNORED)], 3 * width, 12))
    return _png(np.concatenate(rows))


def _image(out, root: str, record: dict) -> np.ndarray:
    """uint8 [h, w, 3] of an image of the manifest."""
    if "shard" in record:
        from eseg_jax.input import pseudo_records

        return unlabelled.decode(pseudo_records.read(out, record)["image"])
    image = epath.Path(root) / record["image"]
    image = image if record["image"] else out / "images" / f"{record['name']}.png"
    return unlabelled.decode(image.read_bytes())


# -------------------------------------------------------------------- other thresholds


def histogram(folder, records, classes: int) -> np.ndarray:
    """int64 [c, 256]: the pixels of each class and confidence byte."""

    def one(record):
        argmax, confidence = pseudo.read_answer(folder, record)
        at = argmax.astype(np.int64) * 256 + confidence
        return np.bincount(at.ravel(), minlength=classes * 256)

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        total = sum(pool.map(one, records), np.zeros(classes * 256, np.int64))
    return total.reshape(classes, 256)


def relabel(folder, out, records: list[dict], levels: np.ndarray) -> list[dict]:
    """Writes the labels of other levels into `out` and returns the new records."""

    def one(record):
        label = pseudo.keep(*pseudo.read_answer(folder, record), levels)
        if "shard" not in record:  # there a student makes them from the answers
            file = f"{record['name']}.png"
            write_bytes(epath.Path(out) / "labels" / file, _png(label))
        return record | {"kept": _kept(label, levels)}

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

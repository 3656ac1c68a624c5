"""A run's small files, in a local folder or in a bucket."""

import csv
import io
import itertools
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Sequence

import numpy as np
from etils import epath

_BUCKET_SECONDS = 30.0  # a bucket limits how often one object may be rewritten
_PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds between tries at a bucket
_logger = logging.getLogger(__name__)


class WriteError(OSError):
    """A file of the workdir cannot be written."""


def is_remote(path: epath.Path) -> bool:
    return "://" in os.fspath(path)


def insist(path: epath.Path, write: Callable[[], object]) -> None:
    """Calls `write`; a bucket, whose failures tend to pass, gets several tries.

    Raises:
      WriteError: the last try failed; names the file, the reason and the remedy.
    """
    for pause in (*(_PAUSES if is_remote(path) else ()), None):
        try:
            write()
            return
        except Exception as error:  # buckets raise their client library's own types
            reason = getattr(error, "strerror", None) or error
            if pause is None:
                raise WriteError(
                    f"{path} cannot be written: {reason}; free some space or mend the "
                    "permissions"
                ) from error
            _logger.warning("%s: %s; trying again in %g s", path, reason, pause)
            time.sleep(pause)


class GrowingFile:
    """A file that only grows, and whose every byte is known.

    Local files get the new bytes at once. Objects in a bucket cannot be appended to:
    they are rewritten whole, at most every 30 s unless `flush(force=True)` says so.
    What cannot be written now is kept and written with what follows.
    """

    def __init__(self, path: epath.Path, data: bytes = b""):
        self._path = path
        self.data = bytearray(data)
        self._written = len(data)
        self._flushed_at = -math.inf
        self._failing = False

    def write(self, data: bytes) -> None:
        self.data += data
        self.flush()

    def truncate(self, size: int) -> None:
        del self.data[size:]
        self._written = min(self._written, size)
        self.flush(force=True)

    def flush(self, force: bool = False) -> None:
        if is_remote(self._path):
            due = time.monotonic() - self._flushed_at > _BUCKET_SECONDS
            if not (force or (due and self._written < len(self.data))):
                return
        self._flushed_at = time.monotonic()
        try:
            insist(self._path, self._store)
        except WriteError as error:
            if not self._failing:
                _logger.warning("%s; the run goes on and tries again later", error)
            self._failing = True
            return
        if self._failing:
            _logger.warning("%s is written again, with nothing missing", self._path)
        self._failing = False
        self._written = len(self.data)

    def _store(self) -> None:
        if is_remote(self._path):
            self._path.write_bytes(bytes(self.data))
            return
        # Written at the known end, so a line cut by a crash is overwritten; a file
        # that somebody deleted meanwhile is made again, whole.
        mode = "r+b" if self._path.exists() else "wb"
        with open(os.fspath(self._path), mode) as file:
            start = min(self._written, file.seek(0, os.SEEK_END))
            file.seek(start)
            file.write(self.data[start:])
            file.truncate()


class JsonLines:
    """Records of a `.jsonl` file, on disk and in memory."""

    def __init__(self, path: epath.Path):
        data = path.read_bytes() if path.exists() else b""
        data = data[: data.rfind(b"\n") + 1]  # a last line without an end was cut
        try:
            self.records = [json.loads(line) for line in data.splitlines()]
        except ValueError as error:
            raise ValueError(
                f"{path} holds a line that is not JSON ({error}); repair it, or move "
                "the file away to go on without its history"
            ) from error
        self.file = GrowingFile(path, data)

    def append(self, record: dict) -> None:
        self.records.append(record)
        self.file.write(_line(record))

    def keep(self, size: int) -> None:
        """Keeps the whole lines within the first `size` bytes."""
        kept = self.file.data[:size]
        del self.records[kept.count(b"\n") :]
        self.file.truncate(kept.rfind(b"\n") + 1)

    def keep_until(self, step: int) -> None:
        """Keeps the lines before the first one beyond `step`."""
        early = (r["step"] <= step for r in self.records)
        count = sum(itertools.takewhile(bool, early))
        lines = self.file.data.splitlines(keepends=True)
        self.keep(sum(map(len, lines[:count])))


def _line(record: dict) -> bytes:
    return json.dumps(record, allow_nan=False).encode() + b"\n"


def plain(value):
    """JSON-able copy: numpy scalars become Python's, NaN and infinities null."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_text(path: epath.Path, text: str) -> None:
    """Replaces a file in one go, so that a reader never meets half of it."""
    write_bytes(path, text.encode())


def write_bytes(path, data: bytes) -> None:
    """Like `write_text`; makes the folder when it is missing."""
    path = epath.Path(path)

    def write():
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_remote(path):
            path.write_bytes(data)
            return
        partial = path.parent / f".{path.name}.partial"
        partial.write_bytes(data)
        os.replace(partial, path)

    insist(path, write)


def file_name(name: str) -> str:
    """A name that is safe in any file system and bucket."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "unnamed"


def write_table(path: epath.Path, step: int, names: Sequence[str], matrix) -> None:
    """Writes an int64 `[c, c]` matrix as CSV under its step and class names."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([f"step {step}", *names])
    for name, row in zip(names, matrix.tolist(), strict=True):
        rows.writerow([name, *row])
    write_text(path, text.getvalue())


def read_table(path: epath.Path) -> tuple[int, list[str], np.ndarray]:
    """Step, class names and matrix that `write_table` wrote."""
    (head, *names), *rows = csv.reader(path.read_text().splitlines())
    matrix = np.array([row[1:] for row in rows], np.int64)
    return int(head.removeprefix("step ")), names, matrix


def write_scores(path: epath.Path, step: int, scores: Sequence[tuple]) -> None:
    """Writes (id, mIoU, pixel accuracy) of each image as CSV; None is left empty."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([f"step {step}", "miou", "pixel_accuracy"])
    rows.writerows(scores)
    write_text(path, text.getvalue())


def read_scores(path: epath.Path) -> tuple[int, dict[str, tuple]]:
    """The step and {id: (mIoU, pixel accuracy)} that `write_scores` wrote."""
    head, *rows = csv.reader(path.read_text().splitlines())
    scores = {
        name: tuple(float(x) if x else None for x in values) for name, *values in rows
    }
    return int(head[0].removeprefix("step ")), scores

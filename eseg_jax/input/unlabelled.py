"""The images that --mode=pseudo_label is to label, whether they have labels or not.

They are a split of a dataset, in files, in TFDS records or drawn; or a folder, or a
pattern of files.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import glob
import io
import itertools
import os
from collections.abc import Callable, Iterator

import numpy as np
from etils import epath
from PIL import Image

from eseg_jax.input import dataset_info, datasets, draw_scene, num_examples
from eseg_jax.input.datasets import InputError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
# Pillow's word for a broken PNG is SyntaxError.
_BROKEN = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
_SAMPLE, _FEW_SIZES, _STEP = 256, 8, 64  # how `size_step` is chosen


@dataclasses.dataclass(frozen=True)
class Item:
    """An image to label.

    Attributes:
      name: among the results.
      image: the file below the input's root, "" if it is in none.
      load: returns the bytes of its file, or uint8 [h, w, 3] if it is drawn.
    """

    name: str
    image: str
    load: Callable[[], bytes | np.ndarray]

    def try_read(self) -> tuple[bytes | np.ndarray, np.ndarray] | str:
        """What `load` returns and its pixels, or a sentence about what is wrong."""
        try:
            data = self.load()
            return data, decode(data)
        except _BROKEN as error:
            return f"{self.image or self.name}: {' '.join(str(error).split())}"


def decode(data: bytes | np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] RGB, as it is stored: the training input does not turn it."""
    if not isinstance(data, bytes):
        return data
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGB"))


def find(config) -> tuple[str, list[Item], dict[str, str]]:
    """The root of the images to label, the images, and what they are in words.

    Raises:
      InputError: there are none, or the dataset cannot be found.
    """
    options, dataset = config.pseudo, config.dataset
    if options.images:
        root, paths = _matching(options.images)
        what = {"name": "images", "images": options.images}
        return os.fspath(root), _in_files(root, paths), what
    info = dataset_info(config)
    what = {"name": options.split, "dataset": dataset.name, "split": options.split}
    if info.layout is None:
        return "", _drawn(config, options.split), what
    what["root"] = dataset.root
    if datasets.from_records(dataset):
        return "", _in_records(info, options.split, dataset.root), what
    root, _ = datasets.open_root(info, dataset.root)
    examples = datasets.list_images(info, options.split, dataset.root)
    paths = [epath.Path(example.image) for example in examples]
    return os.fspath(root), _in_files(root, paths), what


def _drawn(config, split: str) -> list[Item]:
    def draw(index):
        return draw_scene(config, split, index)[0]

    return [
        Item(f"{split}_{index:06d}", "", functools.partial(draw, index))
        for index in range(num_examples(config, split))
    ]


def _in_records(info, split: str, root: str) -> list[Item]:
    from eseg_jax.input import tfds_source

    def load(record):
        data = tfds_source.read(record)
        return tfds_source.image_and_label(data, info.records)[0].numpy()

    records, _ = tfds_source.list_split(info, split, root)
    return [Item(r.id, "", functools.partial(load, r)) for r in records]


def _in_files(root: epath.Path, paths: list[epath.Path]) -> list[Item]:
    """Named as the files without suffix; with it where two differ in nothing else."""
    relative = [path.relative_to(root).as_posix() for path in paths]
    stems = collections.Counter(os.path.splitext(name)[0] for name in relative)
    items = []
    for name, path in zip(relative, paths, strict=True):
        stem = os.path.splitext(name)[0]
        items.append(Item(stem if stems[stem] == 1 else name, name, path.read_bytes))
    return items


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


def choose_step(items: list[Item]) -> int:
    """1 if a sample of the images has few sizes, so that each may be compiled for."""
    sizes = set()
    for item in items[:: -(-len(items) // _SAMPLE)]:
        try:
            data = item.load()
            if not isinstance(data, bytes):
                return 1  # drawn, all of one size
            sizes.add(Image.open(io.BytesIO(data)).size)
        except _BROKEN:
            continue  # named when it is its turn
    return 1 if len(sizes) <= _FEW_SIZES else _STEP

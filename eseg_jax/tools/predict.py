"""Segments images, folders, videos or a camera with a trained network.

    python -m eseg_jax.tools.predict WORKDIR INPUT… --out=DIR

WORKDIR is a run's folder, one of its checkpoints or a file of tools.export. An INPUT
is an image, a folder of images, a quoted pattern such as 'frames/*.jpg', a video, or
the number of a camera. Of images DIR gets a folder for each kind of `--save`, named as
the images are; of a video an MP4 for each kind:

    labels      train ids, 8-bit grey
    color       the classes' colours
    overlay     the image under its colours
    side        image and overlay side by side over the legend
    confidence  the probability of the label, 255 is 1
    flow        what the warps of SFNet do

Labels stay PNGs, one a frame: a video does not keep them exactly. With --fps images
become MP4s too, in sorted order. Videos need FFmpeg, the program or the extra `video`:
pip install 'eseg_jax[video]'. Ends with 1 when an image could not be read.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import glob
import io
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import eseg_jax
from eseg_jax import inference, job
from eseg_jax.inference import Predictor, Segmentation
from eseg_jax.report import flow, panels
from eseg_jax.report.files import write_bytes
from eseg_jax.report.progress import progress
from eseg_jax.tools import video

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
KINDS = ("labels", "color", "overlay", "side", "confidence", "flow")
_AHEAD = 4  # images read, and results written, while one is on the device


@dataclasses.dataclass(frozen=True)
class Item:
    """An image file and its name among the results, without suffix."""

    path: str
    name: str


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = _parse(argv)
    job.keep_memory()
    try:
        items, videos = find(args.inputs)
        items = items[: args.limit]
        if videos or args.fps:
            video.ffmpeg()  # or say at once that it is missing
        predictor = eseg_jax.load(args.path, weights=args.weights, **_protocol(args))
        print(f"{predictor.checkpoint}, {args.weights} weights: {predictor.protocol}")
        if "flow" in args.save and not predictor.has_views:
            raise ValueError(
                f"{predictor.config.model.name} has no flow to save; SFNet's networks "
                "have."
            )
        out = pathlib.Path(args.out)
        write_bytes(out / "legend.png", png(legend(predictor)))
        broken = []
        if items:
            broken = predict_images(predictor, items, out, args.save, args.fps)
        for source in videos:
            predict_video(predictor, source, out, args.save, args.limit)
    except (ValueError, OSError) as error:
        if os.environ.get("ESEG_JAX_TRACEBACK"):
            raise
        print(f"eseg_jax: {error}", file=sys.stderr)
        return 2
    for problem in broken:
        print(f"broken: {problem}", file=sys.stderr)
    if broken:
        print(f"{len(broken)} of {len(items)} images are broken.", file=sys.stderr)
    return 1 if broken else 0


def _parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m eseg_jax.tools.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "path", metavar="WORKDIR", help="a run or a checkpoint's folder"
    )
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help="what to segment")
    parser.add_argument("--out", default="predictions", help="folder of the results")
    parser.add_argument(
        "--save",
        type=_kinds,
        default=("labels", "color", "overlay"),
        metavar="KIND,…",
        help=f"of {', '.join(KINDS)}; default: labels,color,overlay",
    )
    parser.add_argument(
        "--fps", type=float, help="frames per second of an MP4 of images"
    )
    parser.add_argument("--limit", type=int, help="at most so many images or frames")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema")
    parser.add_argument(
        "--scales", type=numbers, metavar="S,…", help="test scales, such as 0.5,1,2"
    )
    parser.add_argument("--flip", action="store_true", help="average with the mirrored")
    parser.add_argument(
        "--size", type=numbers, metavar="H,W", help="resize to H,W or a short side S"
    )
    return parser.parse_args(argv)


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(filter(None, text.split(",")))
    wrong = [kind for kind in kinds if kind not in KINDS]
    if wrong or not kinds:
        raise argparse.ArgumentTypeError(
            f"{', '.join(wrong) or 'nothing'} cannot be saved; choose of "
            f"{', '.join(KINDS)}"
        )
    return kinds


def numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of positive numbers")
    return numbers


def _protocol(args: argparse.Namespace) -> dict:
    """What was asked for; the rest is the configuration's."""
    fields = {"scales": args.scales, "flip": args.flip or None}
    fields["size"] = args.size and tuple(int(side) for side in args.size)
    return {name: value for name, value in fields.items() if value is not None}


# ------------------------------------------------------------------------------- inputs


def find(inputs: Iterable[str]) -> tuple[list[Item], list[str | int]]:
    """The images, and the videos and camera numbers, that the inputs stand for.

    A folder's images keep their places below it. Where two images would have one name,
    as a.png and a.jpg would, they keep their suffix.

    Raises:
      ValueError: an input stands for nothing.
    """
    images: list[tuple[str, str]] = []
    videos: list[str | int] = []
    for text in inputs:
        path = pathlib.Path(text).expanduser()
        if text.isdigit() and not path.exists():
            videos.append(int(text))
        elif path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGES)
            images += [(str(p), p.relative_to(path).as_posix()) for p in found]
            if not found:
                raise ValueError(
                    f"The folder {text} holds no image ({' '.join(IMAGES)})."
                )
        elif path.is_file() and path.suffix.lower() in video.SUFFIXES:
            videos.append(str(path))
        elif path.is_file():
            images.append((str(path), path.name))
        else:
            found = sorted(p for p in glob.glob(str(path), recursive=True))
            found = [pathlib.Path(p) for p in found if os.path.isfile(p)]
            if not found:
                raise ValueError(
                    f"{text} is no image, folder, video or pattern that finds any file."
                )
            images += [(str(p), p.name) for p in found]
    names = [os.path.splitext(name)[0] for _, name in images]
    count = collections.Counter(names)
    if max(collections.Counter(name for _, name in images).values(), default=1) > 1:
        twice = next(
            name for _, name in images if [n for _, n in images].count(name) > 1
        )
        raise ValueError(
            f"Two inputs are called {twice} and would overwrite each other; give the "
            "folder above them instead."
        )
    return [
        Item(path, full if count[name] > 1 else name)
        for (path, full), name in zip(images, names, strict=True)
    ], videos


# ---------------------------------------------------------------------------- the loops


def predict_images(
    predictor: Predictor,
    items: list[Item],
    out: pathlib.Path,
    kinds: Iterable[str],
    fps: float | None = None,
) -> list[str]:
    """Writes what `kinds` says of every image; files appear whole or not at all.

    Reading, the device and writing overlap. With `fps` the kinds also become MP4s.

    Returns:
      a sentence about each image that could not be read.
    """
    broken, meter = [], Meter()
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(_AHEAD))
        movies = stack.enter_context(Movies(out, "video", fps)) if fps else None
        writes: collections.deque = collections.deque()
        for item, image in progress(read_ahead(pool, items), len(items), "images"):
            if isinstance(image, Exception):
                broken.append(f"{item.path}: {image}")
                continue
            found = meter.time(predictor, image)
            pictures = draw(predictor, found, kinds, "")
            for kind, pixels in pictures.items():
                target = out / kind / f"{item.name}.png"
                writes.append(pool.submit(_write_png, target, pixels))
            if movies:
                shown = [kind for kind in kinds if kind != "labels"]
                movies.add(draw(predictor, found, shown, meter.text(predictor, found)))
            while len(writes) > _AHEAD * len(pictures):
                writes.popleft().result()  # a full disk stops here
        for write in writes:
            write.result()
    return broken


def predict_video(
    predictor: Predictor,
    source: str | int,
    out: pathlib.Path,
    kinds: Iterable[str],
    limit: int | None = None,
) -> None:
    """Writes an MP4 of a video or camera for each kind, with the rate in a corner."""
    frames, fps, count = video.read(source)
    if limit:
        count = min(limit, count) if count else limit
    name = f"camera{source}" if isinstance(source, int) else pathlib.Path(source).stem
    meter = Meter()
    with contextlib.closing(frames), Movies(out, name, fps) as movies:
        try:
            for number, frame in enumerate(progress(frames, count, name), start=1):
                found = meter.time(predictor, frame)
                pictures = draw(predictor, found, kinds, meter.text(predictor, found))
                if "labels" in pictures:
                    target = out / "labels" / name / f"{number:06d}.png"
                    _write_png(target, pictures.pop("labels"))
                movies.add(pictures)
                if number == limit:
                    break
        except KeyboardInterrupt:  # how a camera is stopped
            print("\nstopped", file=sys.stderr)


def read_ahead(
    pool, items: list[Item]
) -> Iterator[tuple[Item, np.ndarray | Exception]]:
    """Items with their images, or with what is wrong with the file."""
    waiting: collections.deque = collections.deque()
    for item in items:
        waiting.append((item, pool.submit(inference.read_image, item.path)))
        if len(waiting) > _AHEAD:
            yield _result(*waiting.popleft())
    while waiting:
        yield _result(*waiting.popleft())


def _result(item, future):
    try:
        return item, future.result()
    # Pillow's word for a broken PNG is SyntaxError.
    except (OSError, ValueError, SyntaxError) as error:
        return item, error


class Meter:
    """Frames per second of prediction, labels on the host included, compiling not."""

    def __init__(self):
        self._seconds: collections.deque = collections.deque(maxlen=20)
        self._sizes: set = set()

    def time(self, predictor: Predictor, image: np.ndarray) -> Segmentation:
        start = time.perf_counter()
        found = predictor(image)
        if image.shape in self._sizes:
            self._seconds.append(time.perf_counter() - start)
        self._sizes.add(image.shape)
        return found

    def text(self, predictor: Predictor, found: Segmentation) -> str:
        height, width = found.labels.shape
        name = f"{predictor.config.model.name}  {width}x{height}"
        if not self._seconds:
            return name
        return f"{name}  {len(self._seconds) / sum(self._seconds):.1f} fps"


class Movies:
    """An MP4 for each kind of picture, `<name>_<kind>.mp4`, complete once closed."""

    def __init__(self, folder: pathlib.Path, name: str, fps: float):
        self._folder, self._name, self._fps = folder, name, fps
        self._stack = contextlib.ExitStack()
        self._add: dict[str, Callable[[np.ndarray], None]] = {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def add(self, pictures: dict[str, np.ndarray]) -> None:
        for kind, pixels in pictures.items():
            if kind not in self._add:
                path = self._folder / f"{self._name}_{kind}.mp4"
                size = pixels.shape[:2]
                writer = video.writer(path, size, self._fps)
                self._add[kind] = self._stack.enter_context(writer)
            self._add[kind](pixels)


# ------------------------------------------------------------------------- the pictures


def draw(
    predictor: Predictor, found: Segmentation, kinds: Iterable[str], text: str
) -> dict[str, np.ndarray]:
    """uint8 pictures by kind; `text` is written into a corner of those in colour."""
    pictures = {}
    for kind in kinds:
        match kind:
            case "labels":
                pictures[kind] = found.labels
            case "color":
                pictures[kind] = _caption(found.colour(), text)
            case "overlay":
                pictures[kind] = _caption(found.overlay(), text)
            case "side":
                pair = [_caption(found.image, text), found.overlay()]
                pair = np.concatenate(pair, axis=1)
                key = legend(predictor, pair.shape[1], max(pair.shape[0] // 30, 12))
                pictures[kind] = np.concatenate([pair, key])
            case "confidence":
                pictures[kind] = np.rint(255 * found.confidence).astype(np.uint8)
            case "flow":
                pictures[kind] = flow.sheet(found.image, predictor.views(found.image))
    return pictures


def legend(predictor: Predictor, width: int = 960, size: int = 16) -> np.ndarray:
    """The classes and their colours, uint8 [h, width, 3]."""
    entries = zip(predictor.class_names, predictor.colours, strict=True)
    return panels.legend(list(entries), width, size)


def _caption(pixels: np.ndarray, text: str) -> np.ndarray:
    """White on a dark bar in the upper left corner."""
    if not text:
        return pixels
    size = max(pixels.shape[0] // 26, 11)
    font = ImageFont.load_default(size)
    canvas = Image.fromarray(pixels)
    box = (0, 0, int(font.getlength(text)) + size, size * 9 // 5)
    bar = Image.new("RGB", box[2:], (20, 22, 26))
    canvas.paste(Image.blend(canvas.crop(box), bar, 0.7))
    place = (size // 2, box[3] // 2)
    ImageDraw.Draw(canvas).text(place, text, (255, 255, 255), font, anchor="lm")
    return np.asarray(canvas)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", compress_level=4)
    return buffer.getvalue()


def _write_png(path: pathlib.Path, pixels: np.ndarray) -> None:
    write_bytes(path, png(pixels))


if __name__ == "__main__":
    sys.exit(main())

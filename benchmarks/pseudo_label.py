"""Images per second of --mode=pseudo_label and of a plain predict-then-write loop.

    python benchmarks/pseudo_label.py --workdir=RUN [--images=FOLDER] [--count=200]
    python benchmarks/pseudo_label.py --workdir=RUN --sizes=25 --count=50
    python benchmarks/pseudo_label.py --workdir=RUN --memory --count=10000 \
        --size 64 64 --scales 1 --batch_size=16

RUN is any trained run, such as `configs/eseg_lite_s.py:scenes` of two steps. Without a
folder, scenes are drawn and stored as PNGs. The plain loop reads an image with Pillow,
runs the same jitted network on it, fetches the answer, and saves the same three files
with Pillow, one after the other; neither of the two counts the compilation for its
first image. The device waits for the share of the time that is left when what the
network alone needs is taken off; on a CPU reading and writing also take cores from it.

--sizes=N draws the images in N sizes from three quarters of --size to all of it, as
photographs come. A jitted network compiles for every size that it meets.

--memory labels only, and prints the resident size along the way and its slope over the
last three quarters of the images.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import tempfile
import time

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

sys.path.insert(0, os.fspath(pathlib.Path(__file__).resolve().parents[1]))

from configs import eseg_lite_s  # noqa: E402
from eseg_jax import (  # noqa: E402
    inference,
    job,
    pseudo_label,
    pseudo_output,
    sharding,
)
from eseg_jax.input import pseudo, scenes, unlabelled  # noqa: E402
from eseg_jax.protocols import Protocol  # noqa: E402

_DRAWN = 50  # distinct images; the others are links to them
_ALONE = 20  # images that the network alone is timed on
_SAMPLES = 12  # of the resident size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--images")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 512))
    parser.add_argument("--sizes", type=int, default=1)
    parser.add_argument("--scales", type=float, nargs="+", default=(0.5, 1.0, 2.0))
    parser.add_argument("--flip", type=int, default=1)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--memory", action="store_true")
    args = parser.parse_args()
    job.keep_memory()  # as the command line does
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        config = eseg_lite_s.get_config("scenes")
        config.pseudo.update(
            images=args.images or _draw(folder / "images", args),
            output=os.fspath(folder / "out"),
            scales=tuple(args.scales),
            flip=bool(args.flip),
            batch_size=args.batch_size,
        )
        report = {"device": jax.devices()[0].device_kind, "load": os.getloadavg()[0]}
        report |= (_memory if args.memory else _throughput)(config, args.workdir)
    print(json.dumps(report, indent=2))


def _draw(folder: pathlib.Path, args) -> str:
    folder.mkdir()
    smaller = np.linspace(1, 0.75, args.sizes) if args.sizes > 1 else [1.0]
    for k in range(args.count):
        path = folder / f"{k:06d}.png"
        if k < _DRAWN:
            down, across = smaller[k % args.sizes], smaller[7 * k % args.sizes]
            size = round(args.size[0] * down), round(args.size[1] * across)
            image, _ = scenes.draw(3, k, size)
            Image.fromarray(image).save(path)
        else:
            os.link(folder / f"{k % _DRAWN:06d}.png", path)
    return os.fspath(folder)


def _throughput(config: ConfigDict, workdir: str) -> dict:
    _, items, _ = unlabelled.find(config)
    count = len(items)
    plain, alone = _plain(config, workdir, items)
    times: list[float] = []
    _watch(lambda: times.append(time.perf_counter()))
    pseudo_label.pseudo_label(config, workdir)
    # From the first image on, which has waited for the compilation.
    pipeline = (times[-1] - times[0]) * count / (count - 1)
    return {
        "images": count,
        "network_alone_images_per_s": count / alone,
        "plain_images_per_s": count / plain,
        "pipeline_images_per_s": count / pipeline,
        "ratio": plain / pipeline,
        "device_waits_plain": 1 - alone / plain,
        "device_waits_pipeline": max(0.0, 1 - alone / pipeline),
    }


def _plain(config: ConfigDict, workdir: str, items) -> tuple[float, float]:
    """Seconds of read, predict, write one after the other; and of predict alone."""
    options = config.pseudo
    network = inference.load_network(workdir, options.weights)
    protocol = Protocol(scales=tuple(options.scales), flip=options.flip)
    mesh = sharding.make_mesh({"data": 1}, jax.local_devices()[:1])
    predict = pseudo_label._predictor(network, protocol, 1, mesh)
    levels = pseudo.levels(options.threshold, (), len(network.class_names))
    out = pathlib.Path(options.output).parent / "plain"
    for name in ("argmax", "confidence", "labels"):
        (out / name).mkdir(parents=True)

    def run(image):
        return predict(image[None], np.array([image.shape[:2]], np.int32))

    jax.block_until_ready(run(unlabelled.decode(items[0].load())))  # compiles
    start = time.perf_counter()
    for item in items:
        found = jax.device_get(run(unlabelled.decode(item.load())))
        answer = {name: found[name][0] for name in ("argmax", "confidence")}
        answer["labels"] = pseudo.keep(**answer, levels=levels)
        for name, pixels in answer.items():
            Image.fromarray(pixels).save(out / name / f"{item.name}.png")
    plain = time.perf_counter() - start
    images = [unlabelled.decode(item.load()) for item in items[:_ALONE]]
    start = time.perf_counter()
    for image in images:
        jax.block_until_ready(run(image))
    return plain, (time.perf_counter() - start) / len(images) * len(items)


def _memory(config: ConfigDict, workdir: str) -> dict:
    """The resident size in MB after some of the images, and its slope."""
    count = len(unlabelled.find(config)[1])
    sizes: list[int] = []

    def sample():
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        sizes.append(pages * os.sysconf("SC_PAGE_SIZE"))

    _watch(sample)
    pseudo_label.pseudo_label(config, workdir)
    at = np.linspace(0, count - 1, _SAMPLES).astype(int)
    late = np.arange(count // 4, count)
    slope, _ = np.polyfit(late, np.array(sizes)[late], 1)
    return {
        "images": count,
        "resident_mb": {str(k + 1): round(sizes[k] / 1e6, 1) for k in at},
        "bytes_per_image": round(slope, 1),
    }


def _watch(see) -> None:
    """Calls `see` whenever an image has been saved."""
    save = pseudo_output._save

    def watched(*args, **kwargs):
        record = save(*args, **kwargs)
        see()
        return record

    pseudo_output._save = watched


if __name__ == "__main__":
    main()

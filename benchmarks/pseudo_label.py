"""Images per second of --mode=pseudo_label and of a plain predict-then-write loop.

    python benchmarks/pseudo_label.py --workdir=RUN [--images=FOLDER] [--count=200]

RUN is any trained run, such as `configs/eseg_lite_s.py:scenes` of two steps. Without a
folder, scenes are drawn and stored as JPEGs. Both label the same images with the same
network and thresholds and write the same files. The device waits for the share of the
time that is left when what the network alone needs is taken off; on a CPU reading and
writing also take cores from the network. Memory is the resident size after a quarter of
the images and at the end.
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
from eseg_jax import inference, pseudo_label, pseudo_output  # noqa: E402
from eseg_jax.input import pseudo, scenes, unlabelled  # noqa: E402
from eseg_jax.protocols import Protocol  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--images")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 512))
    parser.add_argument("--scales", type=float, nargs="+", default=(0.5, 1.0, 2.0))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = args.images or _draw(pathlib.Path(folder), args.count, args.size)
        config = _config(images, os.path.join(folder, "out"), args.scales)
        _, items, _ = unlabelled.find(config)
        plain, network_alone = _plain(config, args.workdir, items, folder)
        count = len(items)
        times, memory = _watch(count)
        pseudo_label.pseudo_label(config, args.workdir)
        # From the first image on: neither of the two counts its compilation.
        pipeline = (times[-1] - times[0]) * count / (count - 1)
    report = {
        "device": jax.devices()[0].device_kind,
        "images": count,
        "plain_images_per_s": count / plain,
        "pipeline_images_per_s": count / pipeline,
        "ratio": plain / pipeline,
        "device_waits_plain": 1 - network_alone / plain,
        "device_waits_pipeline": max(0.0, 1 - network_alone / pipeline),
        "memory_mb": memory,
    }
    print(json.dumps(report, indent=2))


def _draw(folder: pathlib.Path, count: int, size) -> str:
    images = folder / "images"
    images.mkdir()
    for k in range(count):
        image, _ = scenes.draw(3, k % 50, tuple(size))
        Image.fromarray(image).save(images / f"{k:06d}.jpg", quality=92)
    return os.fspath(images)


def _config(images, out, scales) -> ConfigDict:
    config = eseg_lite_s.get_config("scenes")
    config.pseudo.update(images=images, output=out, scales=tuple(scales))
    return config


def _predict(config, workdir):
    network = inference.load_network(workdir, "ema")
    protocol = Protocol(scales=tuple(config.pseudo.scales), flip=config.pseudo.flip)
    return network, pseudo_label._predictor(
        network, protocol, 1, jax.local_devices()[:1]
    )


def _plain(config, workdir, items, folder) -> tuple[float, float]:
    """Seconds of read, predict, write one after the other; and of predict alone."""
    network, predict = _predict(config, workdir)
    levels = pseudo.levels(0.5, (), len(network.class_names))
    out = pathlib.Path(folder) / "plain"
    image = items[0].read()
    size = np.array([image.shape[:2]], np.int32)
    jax.block_until_ready(predict(image[None], size))  # compiles
    start = time.perf_counter()
    for item in items:
        image = item.read()
        found = jax.device_get(predict(image[None], size))
        answer = found["argmax"][0], found["confidence"][0]
        pseudo_output._save(out, item, image, *answer, levels=levels)
    plain = time.perf_counter() - start
    start, few = time.perf_counter(), min(len(items), 20)
    for _ in range(few):
        jax.block_until_ready(predict(image[None], size))
    return plain, (time.perf_counter() - start) / few * len(items)


def _watch(count: int) -> tuple[list[float], dict[str, float]]:
    """Filled in while images are saved: the times, and MB after a quarter and all."""
    memory, save, times = {}, pseudo_output._save, []

    def watched(*args, **kwargs):
        record = save(*args, **kwargs)
        times.append(time.perf_counter())
        if len(times) in (count // 4, count):
            pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
            memory[str(len(times))] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        return record

    pseudo_output._save = watched
    return times, memory


if __name__ == "__main__":
    main()

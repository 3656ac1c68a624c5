"""Times the training input beside PyTorch's DataLoader and the cost of decoding.

  taskset -c 1 python benchmarks/input.py --data=/data/cityscapes \\
      --torch_python=/path/to/venv/bin/python

Task: Cityscapes' 1024x2048 PNGs to uint8 batches of 512x1024 crops, scale 0.5 to 2,
flip. The peers live in an environment of their own (`pip install torch==2.13.0 pillow
opencv-python-headless numpy`) and do the same with Pillow and with OpenCV, in as many
workers as there are cores: once as this library does it, the window cut out first and
then resized, and once as most published code does, the whole image resized and then
cropped. Every pipeline runs in processes of its own, and they take turns, so that a
busy machine slows all of them.

Prints Markdown tables: images per second of wall time and per second of CPU time, all
threads and workers counted (on a busy machine only the second means much), ratios, the
pipeline against decoding alone, and where its time goes. Linux only.
"""

import argparse
import glob
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time

import numpy as np

CROP = (512, 1024)
SCALE = (0.5, 2.0)
SIZE = (1024, 2048)
BATCH = 4
PEERS = {
    "Pillow, window first": ("pillow", True),
    "Pillow, resize first": ("pillow", False),
    "OpenCV, window first": ("opencv", True),
    "OpenCV, resize first": ("opencv", False),
}


def cores():
    return len(os.sched_getaffinity(0))


def cpu_seconds(processes=()):
    """Of this process and those of the given ids, all threads."""
    total = time.process_time()
    for process in processes:
        with open(f"/proc/{process}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def timed(batches, count, processes=()):
    """Seconds of wall time and of CPU time an image, over `count` images."""
    for _ in range(2):
        next(batches)  # starts threads and workers, fills the queues
    wall, cpu = time.perf_counter(), cpu_seconds(processes)
    for batch in itertools.islice(batches, count // BATCH):
        assert tuple(batch["image"].shape) == (BATCH, *CROP, 3)
    images = count // BATCH * BATCH
    return [
        (time.perf_counter() - wall) / images,
        (cpu_seconds(processes) - cpu) / images,
    ]


# ----------------------------------------------------------------------- this library


class Ours:
    def __init__(self, data):
        from configs import base
        from eseg_jax.input import datasets

        self.config = base.get_config()
        self.config.dataset.root = data
        self.config.input.update(batch_size=BATCH, crop=CROP, scale=SCALE)
        info = datasets.DATASETS["cityscapes"]
        split = datasets.list_split(info, "train", data)
        self.kind, self.examples = split.kind, split.examples
        self.step = 0

    def pipeline(self, count):
        from eseg_jax import input as eseg_input

        batches = eseg_input.train_batches(self.config, start_step=self.step)
        self.step += count // BATCH
        try:
            return timed(batches, count)
        finally:
            batches.close()

    def stages(self, count):
        """{stage: CPU seconds an image}, each stage alone, and the decoding floors."""
        from eseg_jax.input import folders, png, transforms
        from eseg_jax.input.tf_cpu import tf

        table = self.kind.table()

        @tf.function
        def window(key):
            size = tf.constant(SIZE)
            chosen = transforms.random_window(key, size, CROP, SCALE)
            return transforms.place_window(chosen, size, CROP)

        decode_image = tf.function(lambda data, box: folders.decode_image(data, box))
        decode_label = tf.function(
            lambda data, box: folders.decode_label(data, self.kind, box)
        )
        resize = tf.function(lambda crop, size: transforms.resize(crop, size, table))
        flip = tf.function(lambda *args: transforms.random_flip(*args))

        def whole(image, label):
            return tf.io.decode_png(image, 3), tf.io.decode_png(label, 1)

        seconds = {}

        def step(name, function, *args):
            times = []
            for _ in range(4):
                start = time.process_time()
                result = function(*args)
                times.append(time.process_time() - start)
            # The first call traces; what disturbs one of the others is not its cost.
            seconds.setdefault(name, []).append(min(times[1:]))
            return result

        crops = []
        for number in range(count):
            example = self.examples[number % len(self.examples)]
            key = tf.constant([0, number], tf.int64)
            image = step("read", tf.io.read_file, example.image)
            label = tf.io.read_file(example.label)
            box, target = step("choose the window", window, key)
            step("whole", whole, image, label)
            last = (box[:2] + box[2:]).numpy()
            part = step("cut", png.cut, image.numpy(), *last)
            step("decode image: unfilter", tf.io.decode_png, part, 3)
            pixels = step("decode image", decode_image, image, box)
            ids = step("decode label, check ids", decode_label, label, box)
            crop = {"image": pixels, "label": ids}
            crop = step("resize, map ids", resize, crop, target[2:])
            crops.append(step("flip", flip, crop, key)["image"])
        batches = [crops[i : i + BATCH] for i in range(0, count, BATCH)]
        for batch in batches:
            step("batch", tf.stack, batch)
        mean = {name: statistics.fmean(times) for name, times in seconds.items()}
        mean["batch"] /= BATCH
        mean["decode image: inflate the rows"] = mean.pop("cut")
        return mean


# ---------------------------------------------------------------------------- PyTorch


class Peer:
    """The same with a DataLoader, a PyTorch user's way."""

    def __init__(self, data, library, window_first):
        import torch

        if library == "opencv":
            import cv2

            cv2.setNumThreads(1)  # the workers are the threads
        load = {"pillow": load_pillow, "opencv": load_opencv}[library]
        pattern = os.path.join(data, "leftImg8bit/train/*/*_leftImg8bit.png")
        images = sorted(glob.glob(pattern))
        labels = [
            path.replace("leftImg8bit", "gtFine").replace(
                "_gtFine.png", "_gtFine_labelIds.png"
            )
            for path in images
        ]
        ids = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
        table = np.full(256, 255, np.uint8)
        table[list(ids)] = range(19)

        class Images(torch.utils.data.Dataset):
            def __len__(self):
                return 1 << 20

            def __getitem__(self, number):
                rng = np.random.default_rng(number)
                scale = rng.uniform(*SCALE)
                row = number % len(images)
                image, label = load(
                    images[row], labels[row], scale, rng.uniform(size=2), window_first
                )
                label = table[label]
                if rng.uniform() < 0.5:
                    image, label = image[:, ::-1], label[:, ::-1]
                return {
                    "image": torch.from_numpy(image.copy()),
                    "label": torch.from_numpy(label.copy()),
                }

        self.loader = torch.utils.data.DataLoader(
            Images(), batch_size=BATCH, num_workers=cores()
        )

    def pipeline(self, count):
        batches = iter(self.loader)
        processes = [worker.pid for worker in batches._workers]
        return timed(batches, count, processes)


def place(scale, where, size):
    """Top, left, height, width of the crop in an image of `size` scaled by `scale`."""
    window = [round(c / scale) for c in CROP]
    first = [int(w * (s - n + 1)) for w, s, n in zip(where, size, window, strict=True)]
    return *first, *window


def load_pillow(image, label, scale, where, window_first):
    from PIL import Image

    bilinear, nearest = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
    image, label = Image.open(image).convert("RGB"), Image.open(label)
    out = CROP[::-1]
    if window_first:
        y, x, h, w = place(scale, where, SIZE)
        box = (x, y, x + w, y + h)
        image, label = image.crop(box), label.crop(box)
        image, label = image.resize(out, bilinear), label.resize(out, nearest)
    else:
        size = [round(s * scale) for s in SIZE]
        image = image.resize(size[::-1], bilinear)
        label = label.resize(size[::-1], nearest)
        y, x, _, _ = place(1, where, size)
        box = (x, y, x + out[0], y + out[1])
        image, label = image.crop(box), label.crop(box)
    return np.asarray(image), np.asarray(label)


def load_opencv(image, label, scale, where, window_first):
    import cv2

    image = cv2.imread(image, cv2.IMREAD_COLOR)
    label = cv2.imread(label, cv2.IMREAD_UNCHANGED)

    def resize(size):
        return (
            cv2.resize(image, size, interpolation=cv2.INTER_LINEAR),
            cv2.resize(label, size, interpolation=cv2.INTER_NEAREST),
        )

    if window_first:
        y, x, h, w = place(scale, where, SIZE)
        image, label = image[y : y + h, x : x + w], label[y : y + h, x : x + w]
        image, label = resize(CROP[::-1])
    else:
        size = [round(s * scale) for s in SIZE]
        image, label = resize(size[::-1])
        y, x, h, w = place(1, where, size)
        image, label = image[y : y + h, x : x + w], label[y : y + h, x : x + w]
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), label


# ---------------------------------------------------------------------------- the runs


def work(name, data):
    """Answers "method count" on stdin with JSON."""
    worker = Ours(data) if name == "ours" else Peer(data, *PEERS[name])
    for line in sys.stdin:
        method, count = line.split()
        print(json.dumps(getattr(worker, method)(int(count))), flush=True)


def start(python, name, data):
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return subprocess.Popen(
        [python, os.path.abspath(__file__), f"--data={data}", f"--worker={name}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"},
    )


def ask(worker, method, count):
    worker.stdin.write(f"{method} {count}\n")
    worker.stdin.flush()
    return json.loads(worker.stdout.readline())


def print_rates(turns):
    print(
        "| pipeline | images/s/core, wall | images/s, CPU | CPU ms/image | "
        "ours/this, CPU | ours/this, wall |\n|---|---|---|---|---|---|"
    )
    median = {
        name: [statistics.median(column) for column in zip(*times, strict=True)]
        for name, times in turns.items()
    }
    ours = median["eseg_jax"]
    for name, (wall, cpu) in median.items():
        print(
            f"| {name} | {1 / wall / cores():.1f} | {1 / cpu:.1f} | {cpu * 1e3:.1f} | "
            f"{cpu / ours[1]:.2f} | {wall / ours[0]:.2f} |"
        )
    return ours[1]


def print_stages(pipeline, stages):
    whole = stages.pop("whole")
    parts = {name: s for name, s in stages.items() if ":" not in name}
    floor = sum(parts[name] for name in ("decode image", "decode label, check ids"))
    print(
        f"\nDecoding image and label alone: {whole * 1e3:.1f} ms of CPU whole, as "
        f"TensorFlow does it, and {floor * 1e3:.1f} ms as far as the crops need them. "
        f"The pipeline takes {pipeline / whole:.2f} and {pipeline / floor:.2f} times "
        "that.\n\n| where the time goes | CPU ms/image |\n|---|---|"
    )
    for name, seconds in parts.items():
        print(f"| {name} | {seconds * 1e3:.2f} |")
        for detail, its in stages.items():
            if detail.startswith(f"{name}:"):
                print(f"| … {detail.partition(': ')[2]} | {its * 1e3:.2f} |")
    rest = pipeline - sum(parts.values())
    print(f"| the rest: threads, queues, random numbers | {rest * 1e3:.2f} |")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="Cityscapes' root")
    parser.add_argument("--torch_python", help="without it the peers are left out")
    parser.add_argument("--images", type=int, default=48, help="an image turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        work(flags.worker, flags.data)
        return
    workers = {"eseg_jax": start(sys.executable, "ours", flags.data)}
    if flags.torch_python:
        for name in PEERS:
            workers[name] = start(flags.torch_python, name, flags.data)
    turns = {name: [] for name in workers}
    for _ in range(flags.rounds):
        for name, worker in workers.items():
            turns[name].append(ask(worker, "pipeline", flags.images))
    stages = ask(workers["eseg_jax"], "stages", flags.images)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    print(
        f"{cores()} core(s) of {platform.machine()}, {flags.rounds} turns of "
        f"{flags.images} images, medians\n"
    )
    print_stages(print_rates(turns), stages)


if __name__ == "__main__":
    main()

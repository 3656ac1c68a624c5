"""Times the full training step beside the same network and recipe in PyTorch.

  PYTHONPATH=. python benchmarks/train_step.py [--names=…] [--crop=192x256]
      [--batch=4] [--rounds=5] [--backends=jax,torch,compiled]
      [--dtype=float32|bfloat16] [--json=FILE]

Needs jax and PyTorch in one environment. A step is forward, loss with its hard pixels
and training heads, backward, clipping, update and moving averages, by the recipe of
configs/<name>.py; --crop=config and --batch=0 take its crop and batch. With bfloat16
PyTorch uses AMP. "jax" is the very step that eseg_jax.train compiles. Images are on
the device. Each backend runs in a process of its own, and they take turns within a
round. Prints a table in Markdown; with JAX_PLATFORMS=cuda it is about the GPU. On a CPU
ours keeps the memory that it frees, as every run of eseg_jax does (`job.keep_memory`).

Pinned to one core (`taskset -c 1`), the times are the processor's: what a step takes
with that core for itself, whatever else runs there. Memory is the process's peak on a
CPU, the allocator's on a GPU.
"""

import argparse
import importlib
import os
import resource
import statistics
import sys

import numpy as np
import timing

NAMES = ("eseg_lite_s", "eseg_s", "sfnet_resnet18", "dfanet_a", "frfnet")
CLASSES = 19
TITLES = {
    "jax": "eseg_jax",
    "torch": "PyTorch, eager",
    "compiled": "PyTorch, torch.compile",
}


def recipe(case):
    """The configuration of a network with the crop, batch and type of a case."""
    config = importlib.import_module(f"configs.{case['name']}").get_config()
    if case["crop"] != "config":
        config.input.crop = tuple(map(int, case["crop"].split("x")))
    config.input.batch_size = case["batch"] or config.input.batch_size
    config.dtype = case["dtype"]
    return config


def batch(config):
    """Noise, and labels in blocks of which a tenth is ignored."""
    rng = np.random.default_rng(0)
    shape = (config.input.batch_size, *config.input.crop)
    labels = rng.integers(0, CLASSES, [-(-side // 16) for side in shape])
    labels = np.where(rng.random(labels.shape) < 0.1, 255, labels).astype(np.uint8)
    for axis, side in enumerate(shape):
        labels = labels.repeat(16, axis).take(range(side), axis)
    return rng.integers(0, 256, (*shape, 3), np.uint8), labels


def jax_step(config):
    import jax

    from eseg_jax import evaluate, optimizer, rng, sharding, state, train

    model = evaluate.create_model(config, CLASSES)
    tx = optimizer.make_optimizer(config.optimizer, config.total_steps)

    def init():
        return state.init_state(model, tx, rng.stream(config.seed, "init", 0))

    mesh = sharding.make_mesh(config.mesh)
    shapes = jax.eval_shape(init)
    step = train.lower_train_step(config, model, tx, shapes, mesh).compile()
    current = jax.jit(init, out_shardings=sharding.replicated(mesh))()
    image, label = batch(config)
    arrays = sharding.put_batch({"image": image, "label": label}, mesh)

    def call():
        nonlocal current
        current, scalars = step(current, arrays)
        return float(scalars["loss"])

    return call


def torch_step(config, name, compiled):
    import torch
    from peers import training

    from eseg_jax import models

    info = models.info(name)
    device = "cpu" if os.environ.get("JAX_PLATFORMS", "cpu") == "cpu" else "cuda"
    step = training.make_step(
        name,
        config,
        num_classes=CLASSES,
        mean=info.mean,
        std=info.std,
        device=device,
        compiled=compiled,
        bfloat16=config.dtype == "bfloat16",
    )
    image, label = batch(config)
    image = torch.from_numpy(image).to(device)
    label = torch.from_numpy(label).long().to(device)
    return lambda: step(image, label).item()


def make(backend, case):
    """{backend: (call,)}; a call returns the loss."""
    config = recipe(case)
    if backend == "jax":
        return {backend: (jax_step(config),)}
    return {backend: (torch_step(config, case["name"], backend == "compiled"),)}


def timed(call):
    """[by the clock, of the processor, MB at the peak, loss]; milliseconds."""
    milliseconds, loss = timing.two_clocks(call, most=5)
    return [*milliseconds, peak(), loss]


def peak():
    """Megabytes."""
    if os.environ.get("JAX_PLATFORMS", "cpu") == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if "torch" in sys.modules:
        return sys.modules["torch"].cuda.max_memory_allocated() / 2**20
    import jax

    return jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", default=",".join(NAMES))
    parser.add_argument("--crop", default="192x256")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--backends", default="jax,torch,compiled")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file that the rows are added to")
    parser.add_argument("--worker", choices=tuple(TITLES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        timing.work_as(args.worker, make, timed)
        return

    one_core = len(os.sched_getaffinity(0)) == 1
    backends = args.backends.split(",")
    kind = "of the processor, on one core" if one_core else "by the clock"
    print(f"images/s {kind}, median of {args.rounds} rounds (GB at the peak)\n")
    head = ["network", "batch", "type", *(TITLES[b] for b in backends), "ratio"]
    print(f"| {' | '.join(head)} |")
    print("|---" * len(head) + "|")
    for name in args.names.split(","):
        case = {
            "name": name,
            "crop": args.crop,
            "batch": args.batch,
            "dtype": args.dtype,
        }
        # New processes for each: the peak is then that of this network.
        workers = [
            timing.start(__file__, sys.executable, backend, backend == "jax")
            for backend in backends
        ]
        times = timing.measure(workers, case, args.rounds)
        timing.stop(workers)
        row = {**case, "one_core": one_core, "backends": {}}
        for backend, rounds in times.items():
            columns = zip(*(call for (call,) in rounds), strict=True)
            names = ("clock_ms", "processor_ms", "peak_mb", "loss")
            row["backends"][backend] = dict(zip(names, columns, strict=True))
        config = recipe(case)
        row["shape"] = [config.input.batch_size, *config.input.crop]
        print(table_row(row, "processor_ms" if one_core else "clock_ms"), flush=True)
        if args.json:
            timing.keep(args.json, row, ("name", "shape", "dtype", "one_core"))


def table_row(row, kind):
    found, cells = row["backends"], []
    rates = {
        name: row["shape"][0] / statistics.median(times[kind]) * 1e3
        for name, times in found.items()
    }
    for name, times in found.items():
        cells.append(f"{rates[name]:.2f} ({max(times['peak_mb']) / 1024:.1f})")
    theirs = [rate for name, rate in rates.items() if name != "jax"]
    ratio = f"{rates['jax'] / max(theirs):.2f}" if theirs and "jax" in rates else ""
    shape = "x".join(map(str, row["shape"]))
    return f"| {' | '.join([row['name'], shape, row['dtype'], *cells, ratio])} |"


if __name__ == "__main__":
    main()

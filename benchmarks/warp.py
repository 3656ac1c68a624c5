"""Times `bilinear_warp` beside PyTorch's `grid_sample`.

  python benchmarks/warp.py --torch_python=/path/to/venv/bin/python
  JAX_PLATFORMS=cuda python benchmarks/warp.py --torch_python=… --dtype=bfloat16

PyTorch lives in an environment of its own (`pip install torch==2.13.0 numpy`). Each
library runs in a process of its own, and the two take turns, so that neither disturbs
the other and a busy machine slows both. Prints a table in Markdown. Without
JAX_PLATFORMS it is about this machine's CPU. Of bfloat16 features PyTorch samples a
float32 copy, as its autocast does: a bfloat16 grid would resolve one or two pixels.

The C library hands arrays of more than 32 MB back to the system when they are freed, so
that each call pays for fresh pages again, whatever it computes. A run of this library
stops that (`job.keep_memory`), PyTorch does not: the tables compare the two as they are
used. --keep_pages stops it in both, and the table is about the arithmetic.
"""

import argparse
import os
import platform
import statistics
import sys

import numpy as np
import timing

# (images, channels, rows, columns) of the map; the grid has twice its size.
SHAPES = (
    (2, 128, 64, 128),
    (2, 64, 64, 128),
    (2, 256, 64, 128),
    (8, 128, 64, 128),
    (2, 128, 128, 256),
)
QUICK = ((2, 16, 8, 16),)
FLOW = 3.0  # standard deviation in output pixels


def inputs(shape):
    """Features and cotangent NHWC, and a grid as SFNet's FAM makes it."""
    n, c, h, w = shape
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(-1, 1, 2 * w), np.linspace(-1, 1, 2 * h))
    flow = rng.normal(0, FLOW, (n, 2 * h, 2 * w, 2)) / (2 * w, 2 * h)
    grid = np.stack([x, y], axis=-1)[None] + flow
    features = rng.normal(size=(n, h, w, c))
    cotangent = rng.normal(size=(n, 2 * h, 2 * w, c))
    return [array.astype(np.float32) for array in (features, grid, cotangent)]


def jax_calls(case):
    """{name: (forward, forward and backward)} of this library."""
    shape, dtype = case
    import jax

    from eseg_jax.ops.warp import bilinear_warp, bilinear_warp_reference

    features, grid, cotangent = map(jax.numpy.asarray, inputs(shape))
    features, cotangent = features.astype(dtype), cotangent.astype(dtype)

    def calls(warp):
        def both(features, grid, cotangent):
            output, pull = jax.vjp(warp, features, grid)
            return output, *pull(cotangent)

        forward, both = jax.jit(warp), jax.jit(both)
        return (
            lambda: jax.block_until_ready(forward(features, grid)),
            lambda: jax.block_until_ready(both(features, grid, cotangent)),
        )

    return {
        "eseg_jax": calls(bilinear_warp),
        "automatic derivative": calls(bilinear_warp_reference),
    }


def torch_calls(case):
    """{name: (forward, forward and backward)} of PyTorch, in both memory formats."""
    import torch

    shape, dtype = case
    dtype = getattr(torch, dtype)
    device = "cpu" if os.environ.get("JAX_PLATFORMS", "cpu") == "cpu" else "cuda"

    def calls(memory_format):
        features, grid, cotangent = map(torch.from_numpy, inputs(shape))
        features, cotangent = (
            x.permute(0, 3, 1, 2)
            .to(device, dtype)
            .contiguous(memory_format=memory_format)
            for x in (features, cotangent)
        )
        grid = grid.to(device)
        features.requires_grad_()
        grid.requires_grad_()

        def sample():
            output = torch.nn.functional.grid_sample(
                features.float(), grid, align_corners=True
            )
            return output.to(dtype)

        def finished(result):
            if device == "cuda":
                torch.cuda.synchronize()
            return result

        def forward():
            with torch.no_grad():
                return finished(sample())

        def both():
            output = sample()
            gradients = torch.autograd.grad(output, (features, grid), cotangent)
            return finished((output, gradients))

        return forward, both

    return {
        "PyTorch NCHW": calls(torch.contiguous_format),
        "PyTorch channels last": calls(torch.channels_last),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch_python", help="interpreter that has PyTorch")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--keep_pages", action="store_true", help="see above")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="features"
    )
    parser.add_argument("--quick", action="store_true", help="one tiny shape")
    parser.add_argument("--worker", choices=("jax", "torch"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        timing.work({"jax": jax_calls, "torch": torch_calls}[args.worker])
        return
    workers = [timing.start(__file__, sys.executable, "jax", True)]
    if args.torch_python:
        workers.append(
            timing.start(__file__, args.torch_python, "torch", args.keep_pages)
        )
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {args.dtype}; median (least) of"
    )
    print(f"{args.rounds} rounds, milliseconds; ratio to the faster PyTorch.\n")
    print("| n, c, h, w | | forward | ratio | forward + backward | ratio |")
    print("|---|---|---|---|---|---|")
    for shape in QUICK if args.quick else SHAPES:
        times = timing.measure(workers, (shape, args.dtype), args.rounds)
        median = {
            name: [statistics.median(column) for column in zip(*pairs, strict=True)]
            for name, pairs in times.items()
        }
        peers = [pair for name, pair in median.items() if name.startswith("PyTorch")]
        for name, pairs in times.items():
            cells = []
            for k in (0, 1):
                least = min(pair[k] for pair in pairs)
                cells.append(f"{median[name][k]:.1f} ({least:.1f})")
                cells.append(
                    f"{min(p[k] for p in peers) / median[name][k]:.2f}" if peers else ""
                )
            print(f"| {', '.join(map(str, shape))} | {name} | {' | '.join(cells)} |")
    timing.stop(workers)


if __name__ == "__main__":
    main()

"""Times the operations of `eseg_jax.ops` beside jax's default forms and PyTorch.

  python benchmarks/ops.py --torch_python=/path/to/venv/bin/python

PyTorch lives in an environment of its own (`pip install torch==2.13.0 numpy`) and
works channels last. Each library runs in a process of its own, and the two take turns,
so that a busy machine slows both. Prints a Markdown table, or JSON with --json: the
least milliseconds of forward and of forward and backward over the rounds, and how many
times faster than jax's default forms that is. Lines that begin with "block" and "head"
put operations where networks have them; alone, an operation can look better than it
is, since XLA fuses it with its neighbours or fails to.

The C library hands arrays of more than 32 MB back to the system when they are freed, so
that each call pays for fresh pages again, whatever it computes. A run of this library
stops that (`job.keep_memory`), PyTorch does not: the tables compare the two as they are
used. --keep_pages stops it in both, and the table is about the arithmetic.

  python benchmarks/ops.py --compile

times tracing and compiling a stack of 20 separable convolutions with gradients.
"""

import argparse
import json
import os
import platform
import sys
import time

import numpy as np
import timing

# Name, operation, image [n, h, w, c], options. The sizes are those of ESeg-Lite-S and
# ESeg-S trained on 128x256 images, eight at a time, and of both at 512x1024, one; those
# of four images are of SFNet-ResNet-18 and FRFNet trained on 192x256.
CASES = (
    ("stem 3x3 s2", "conv", (8, 128, 256, 3), {"k": 3, "o": 16, "s": 2}),
    ("stem 3x3 s2", "conv", (1, 512, 1024, 3), {"k": 3, "o": 32, "s": 2}),
    ("dense 3x3", "conv", (8, 64, 128, 16), {"k": 3, "o": 8}),
    ("dense 3x3 s2", "conv", (8, 64, 128, 8), {"k": 3, "o": 48, "s": 2}),
    ("dense 3x3", "conv", (8, 32, 64, 16), {"k": 3, "o": 96}),
    ("dense 5x5 s2", "conv", (8, 32, 64, 16), {"k": 5, "o": 96, "s": 2}),
    ("dense 5x5", "conv", (8, 8, 16, 48), {"k": 5, "o": 288}),
    ("dense 5x5", "conv", (8, 4, 8, 80), {"k": 5, "o": 480}),
    ("dense 3x3", "conv", (4, 96, 128, 64), {"k": 3, "o": 64}),
    ("dense 3x3", "conv", (4, 96, 128, 64), {"k": 3, "o": 128}),
    ("dense 3x3", "conv", (4, 48, 64, 512), {"k": 3, "o": 128}),
    ("dense 3x3", "conv", (4, 96, 128, 16), {"k": 3, "o": 16}),
    ("1x1", "conv", (8, 32, 64, 96), {"k": 1, "o": 16}),
    ("1x1", "conv", (8, 16, 32, 40), {"k": 1, "o": 240}),
    ("1x1", "conv", (8, 16, 32, 64), {"k": 1, "o": 64}),
    ("1x1", "conv", (1, 128, 256, 64), {"k": 1, "o": 64}),
    ("depthwise 3x3", "depthwise", (8, 16, 32, 64), {"k": 3}),
    ("depthwise 3x3", "depthwise", (8, 32, 64, 144), {"k": 3}),
    ("depthwise 5x5", "depthwise", (8, 16, 32, 240), {"k": 5}),
    ("depthwise 3x3 s2", "depthwise", (8, 64, 128, 96), {"k": 3, "s": 2}),
    ("depthwise 3x3", "depthwise", (1, 128, 256, 144), {"k": 3}),
    ("max pool 3x3 s2", "pool", (8, 16, 32, 64), {}),
    ("max pool 3x3 s2", "pool", (1, 256, 512, 64), {}),
    ("bilinear x2", "resize", (8, 16, 32, 64), {"scale": 2}),
    ("bilinear x8", "resize", (8, 16, 32, 19), {"scale": 8}),
    ("bilinear x8", "resize", (1, 64, 128, 19), {"scale": 8}),
    ("block", "block", (8, 16, 32, 64), {}),
    ("block", "block", (2, 16, 32, 240), {}),
    ("head", "head", (8, 16, 32, 64), {"scale": 8}),
)
CLASSES = 19


def inputs(operation, shape, *, k=3, o=CLASSES, **_):
    """Image and kernels [kh, kw, in, out], float32 from a fixed seed."""
    rng = np.random.default_rng(0)
    c = shape[-1]
    kernels = {
        "conv": [(k, k, c, o)],
        "depthwise": [(k, k, 1, c)],
        "block": [(3, 3, 1, c), (1, 1, c, c)],
        "head": [(1, 1, c, CLASSES)],
    }
    shapes = [shape, *kernels.get(operation, [])]
    return [rng.normal(size=s).astype(np.float32) for s in shapes]


def jax_calls(operation, shape, options):
    """{name: (forward, forward and backward)} of this library and of jax."""
    import importlib

    import jax
    import jax.numpy as jnp

    conv, depthwise, pool, resize = (
        importlib.import_module(f"eseg_jax.ops.{name}")
        for name in ("conv", "depthwise", "pool", "resize")
    )
    arrays = [jnp.asarray(x) for x in inputs(operation, shape, **options)]
    s, scale = options.get("s", 1), options.get("scale", 1)
    size = (shape[1] * scale, shape[2] * scale)

    def normalised(x):
        mean = x.mean((0, 1, 2), keepdims=True)
        return (x - mean) * jax.lax.rsqrt(x.var((0, 1, 2), keepdims=True) + 1e-3)

    def function(reference):
        def pick(module, name):
            return getattr(module, name + "_reference" * reference)

        conv_ = pick(conv, "conv")
        depthwise_ = pick(depthwise, "depthwise_conv")
        resize_ = pick(resize, "resize_bilinear")

        def head(x, kernel):
            logits = resize_(conv_(x, kernel), size)
            target = jnp.arange(logits[..., 0].size).reshape(logits.shape[:3])
            chosen = jax.nn.one_hot(target % CLASSES, CLASSES)
            return -(jax.nn.log_softmax(logits) * chosen).sum(-1)

        def block(x, kernel, pointwise):
            x = depthwise_(jax.nn.relu(normalised(x)), kernel)
            return normalised(conv_(x, pointwise))

        return {
            "conv": lambda x, kernel: conv_(x, kernel, strides=(s, s)),
            "depthwise": lambda x, kernel: depthwise_(x, kernel, strides=(s, s)),
            "pool": pick(pool, "max_pool"),
            "resize": lambda x: resize_(x, size),
            "block": block,
            "head": head,
        }[operation]

    def calls(function):
        def both(arrays, cotangent):
            output, pull = jax.vjp(function, *arrays)
            return output, pull(cotangent)

        forward, both = jax.jit(function), jax.jit(both)
        cotangent = jnp.ones_like(forward(*arrays))
        return (
            lambda: jax.block_until_ready(forward(*arrays)),
            lambda: jax.block_until_ready(both(arrays, cotangent)),
        )

    return {"eseg_jax": calls(function(False)), "jax default": calls(function(True))}


def torch_calls(operation, shape, options):
    """{name: (forward, forward and backward)} of PyTorch, channels last."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(os.cpu_count())

    def last(array, order):
        x = torch.from_numpy(array).permute(order)
        x = x.contiguous(memory_format=torch.channels_last)
        return x.requires_grad_()

    image, *kernels = inputs(operation, shape, **options)
    x = last(image, (0, 3, 1, 2))
    kernels = [last(kernel, (3, 2, 0, 1)) for kernel in kernels]
    c, s, scale = shape[-1], options.get("s", 1), options.get("scale", 1)
    pad = options.get("k", 3) // 2

    def resize(x):
        return F.interpolate(x, scale_factor=scale, mode="bilinear")

    def head():
        logits = resize(F.conv2d(x, kernels[0]))
        target = torch.arange(logits[:, 0].numel()).reshape(logits[:, 0].shape)
        return F.cross_entropy(logits, target % CLASSES, reduction="none")

    def block():
        y = F.relu(F.batch_norm(x, None, None, training=True))
        y = F.conv2d(F.conv2d(y, kernels[0], padding=1, groups=c), kernels[1])
        return F.batch_norm(y, None, None, training=True)

    call = {
        "conv": lambda: F.conv2d(x, kernels[0], stride=s, padding=pad),
        "depthwise": lambda: F.conv2d(x, kernels[0], stride=s, padding=pad, groups=c),
        "pool": lambda: F.max_pool2d(x, 3, 2, 1),
        "resize": lambda: resize(x),
        "block": block,
        "head": head,
    }[operation]
    cotangent = torch.ones_like(call())

    def forward():
        with torch.no_grad():
            return call()

    def both():
        output = call()
        return output, torch.autograd.grad(output, (x, *kernels), cotangent)

    return {"PyTorch": (forward, both)}


def least(workers, case, rounds):
    """{name: [forward, both]}: the least over the rounds, in milliseconds."""
    return {
        name: [min(column) for column in zip(*pairs, strict=True)]
        for name, pairs in timing.measure(workers, case, rounds).items()
    }


def print_row(case, times):
    name, _, shape, options = case
    detail = f" -> {options['o']}" if "o" in options else ""
    cells = [f"{name}, {'x'.join(map(str, shape))}{detail}"]
    for k in (0, 1):
        cells += [f"{pair[k]:.2f}" for pair in times.values()]
        cells.append(f"{times['jax default'][k] / times['eseg_jax'][k]:.1f}")
    print(f"| {' | '.join(cells)} |", flush=True)


def time_compiling():
    """Seconds to trace and to compile 20 separable convolutions with gradients."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp

    from eseg_jax.ops.conv import conv, conv_reference
    from eseg_jax.ops.depthwise import depthwise_conv, depthwise_conv_reference

    x = jnp.ones((2, 16, 32, 64))
    kernels = [(jnp.ones((3, 3, 1, 64)), jnp.ones((1, 1, 64, 64)))] * 20
    forms = {
        "eseg_jax": (depthwise_conv, conv),
        "jax default": (depthwise_conv_reference, conv_reference),
    }
    for name, (depthwise, pointwise) in forms.items():

        def loss(kernels, x, depthwise=depthwise, pointwise=pointwise):
            for spatial, mixing in kernels:
                x = jax.nn.relu(pointwise(depthwise(x, spatial), mixing))
            return x.sum()

        begun = time.perf_counter()
        lowered = jax.jit(jax.grad(loss, (0, 1))).lower(kernels, x)
        traced = time.perf_counter()
        lowered.compile()
        seconds = traced - begun, time.perf_counter() - traced
        print(f"{name}: trace {seconds[0]:.1f} s, compile {seconds[1]:.1f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch_python", help="interpreter that has PyTorch")
    parser.add_argument("--only", default="", help="cases whose name begins so")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--keep_pages", action="store_true", help="see above")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--compile", action="store_true", help="see above")
    parser.add_argument("--worker", choices=("jax", "torch"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        make = {"jax": jax_calls, "torch": torch_calls}[args.worker]
        timing.work(lambda case: make(*case[1:]))
        return
    if args.compile:
        time_compiling()
        return
    workers = [timing.start(__file__, sys.executable, "jax", True)]
    names = ["eseg_jax", "jax default"]
    if args.torch_python:
        workers.append(
            timing.start(__file__, args.torch_python, "torch", args.keep_pages)
        )
        names.append("PyTorch")
    if not args.json:
        print(
            f"{platform.machine()}, {os.cpu_count()} cores; milliseconds, the least of"
        )
        print(f"{args.rounds} rounds; default / eseg_jax in the columns of ratios.\n")
        columns = [f"{name}, {way}" for way in ("f", "f+b") for name in [*names, "x"]]
        print(f"| | {' | '.join(columns)} |")
        print("|---" * (len(columns) + 1) + "|")
    for case in CASES:
        if not case[0].startswith(args.only):
            continue
        times = least(workers, case, args.rounds)
        if args.json:
            print(json.dumps({"case": case, "milliseconds": times}), flush=True)
        else:
            print_row(case, times)
    timing.stop(workers)


if __name__ == "__main__":
    main()

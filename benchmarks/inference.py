"""Times inference on this machine's CPU: ours beside the same networks in PyTorch.

  python benchmarks/inference.py [--names=…] [--sizes=512x1024,1024x2048]
      [--rounds=5] [--backends=jax,torch,compiled,onnxruntime] [--json=FILE]

Needs jax, PyTorch and, for our ONNX exports, onnxruntime in one environment. One image,
float32, weights at random and the same sizes for all: normalised pixels in, labels of
the image's size out (enlargement and argmax inside). Batch normalisation is folded in
all. Each backend runs in a process of its own, and they take turns within a round, so
that a busy machine slows all of them alike. Prints a table in Markdown.

Two times are kept: by the clock, and of the processor (all threads together). Pinned to
one core (`taskset -c 1`), the second is what a call takes with that core for itself,
whatever else runs there; the table is then of that time.
"""

import argparse
import os
import statistics
import sys

import timing

NAMES = ("eseg_lite_s", "eseg_s", "sfnet_resnet18", "sfnet_df1", "dfanet_a", "frfnet")
SIZES = ("512x1024", "1024x2048")
TITLES = {
    "jax": "eseg_jax, jit",
    "onnxruntime": "eseg_jax, ONNX in onnxruntime",
    "torch": "PyTorch, eager",
    "compiled": "PyTorch, torch.compile",
}
OURS, THEIRS = ("jax", "onnxruntime"), ("torch", "compiled")


def make(backend, case):
    """{backend: (call,)} for one network and size."""
    from eseg_jax.speed.backends import BACKENDS
    from eseg_jax.speed.measure import Protocol

    compiled = backend == "compiled"
    protocol = Protocol(
        backend="torch" if compiled else backend,
        size=tuple(map(int, case["size"].split("x"))),
        compiled=compiled,
    )
    return {backend: (BACKENDS[protocol.backend](case["name"], protocol),)}


def timed(call):
    """[by the clock, of the processor] in milliseconds: the least of a few calls."""
    call()  # finds its memory
    milliseconds, _ = timing.two_clocks(call, most=3)
    return milliseconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", default=",".join(NAMES))
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--backends", default="jax,torch,compiled,onnxruntime")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file that the times are added to")
    parser.add_argument("--worker", choices=tuple(TITLES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        timing.work_as(args.worker, make, timed)
        return

    pinned = len(os.sched_getaffinity(0)) == 1
    which = 1 if pinned else 0
    backends = args.backends.split(",")
    workers = {
        backend: timing.start(__file__, sys.executable, backend, False)
        for backend in backends
    }
    cases = [
        {"name": name, "size": size}
        for name in args.names.split(",")
        for size in args.sizes.split(",")
    ]
    print(f"median (least) milliseconds of {args.rounds} rounds, ", end="")
    print("of the processor, on one core" if pinned else "by the clock")
    head = ["network", "image", *(TITLES[b] for b in backends), "ratio"]
    print(f"\n| {' | '.join(head)} |")
    print("|---" * len(head) + "|")
    for case in cases:
        times = timing.measure(list(workers.values()), case, args.rounds)
        row = {**case, "one_core": pinned, "milliseconds": {}}
        for backend, rounds in times.items():
            clock, processor = zip(*(call for (call,) in rounds), strict=True)
            row["milliseconds"][backend] = {"clock": clock, "processor": processor}
        print(table_row(row, backends, which), flush=True)
        if args.json:
            timing.keep(args.json, row, ("name", "size", "one_core"))
    timing.stop(workers.values())


def table_row(row, backends, which):
    kind = ("clock", "processor")[which]
    times = {b: row["milliseconds"][b][kind] for b in backends}
    median = {b: statistics.median(values) for b, values in times.items()}
    cells = [f"{median[b]:.0f} ({min(times[b]):.0f})" for b in backends]
    ours, theirs = (
        [median[b] for b in group if b in median] for group in (OURS, THEIRS)
    )
    ratio = f"{min(ours) / min(theirs):.2f}" if ours and theirs else ""
    return f"| {row['name']} | {row['size']} | {' | '.join(cells)} | {ratio} |"


if __name__ == "__main__":
    main()

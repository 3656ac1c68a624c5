"""Times the inference of networks, and says under which conditions.

    python -m eseg_jax.tools.benchmark [names…] [--size=512x1024] [--batch=1]
        [--precision=float32|bfloat16] [--end=logits|labels] [--unfolded] [--host_copy]
        [--backend=jax|onnxruntime|litert|saved_model|torch] [--compile] [--seconds=3]
        [--no_floor] [--json=FILE]

A name may be a pattern, 'sfnet_*'; without any it is every network. Weights are random:
time does not depend on them. Backends other than jax run an export of the network, made
for the occasion, in its own runtime; `torch` needs a checkout and times the same
network of benchmarks/peers, channels last, with --compile after torch.compile.

Images are normalised and on the device. A call is timed from its start to its finished
result, one after the other; throughput is that of calls which do not wait for each
other. The floor is what the same device would need at least: for each convolution the
larger of its multiply-adds over the measured rate of a large matrix product, and its
bytes (input, kernel and output once) over the measured rate of a copy.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from eseg_jax import job, models
from eseg_jax.models import cost
from eseg_jax.report.progress import progress
from eseg_jax.speed import bounds
from eseg_jax.speed.backends import BACKENDS, EXPORTS
from eseg_jax.speed.measure import Protocol, describe, measure
from eseg_jax.tools.summary import matching, parse_size

_LINE = "{:<24} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}"
_HEAD = (
    "model",
    "median ms",
    "p95",
    "least",
    "images/s",
    "floor ms",
    "x floor",
    "MACs G",
)


def rows(
    names: list[str], protocol: Protocol, seconds: float, with_floor: bool
) -> Iterator[dict[str, Any]]:
    """Times the networks one after the other."""
    rates = bounds.device_rates(protocol.precision) if with_floor else {}
    for name in names:
        prepared = BACKENDS[protocol.backend](name, protocol)
        row = {
            "name": name,
            "protocol": dataclasses.asdict(protocol),
            "device": prepared.device,
            "versions": prepared.versions,
            "compile_seconds": prepared.compile_seconds,
            **measure(prepared, seconds),
        }
        row["images_per_second"] = protocol.batch * row["calls_per_second"]
        row["macs"] = cost.count(name, protocol.size, protocol.classes).macs
        if with_floor:
            row |= rates | bounds.floor(name, protocol, rates)
        yield row


def main(argv: list[str] | None = None) -> None:
    """Runs the command; `argv` are its arguments, None those of the process."""
    parser = argparse.ArgumentParser(
        prog="python -m eseg_jax.tools.benchmark",
        description=__doc__.splitlines()[0],
    )
    add = parser.add_argument
    add("names", nargs="*", help="models or patterns; all without any")
    add("--backend", choices=tuple(BACKENDS), default="jax")
    add("--size", type=parse_size, metavar="HxW", default=(512, 1024))
    add("--batch", type=int, default=1, help="images in a call")
    add("--classes", type=int, default=19, help="of the logits")
    add("--precision", choices=("float32", "bfloat16"), default="float32")
    add("--end", choices=("logits", "labels"), default="labels", help="where calls end")
    add("--unfolded", action="store_true", help="leave batch normalisation as it is")
    add("--host_copy", action="store_true", help="copy the result to the host")
    add("--compile", action="store_true", help="torch.compile")
    add("--seconds", type=float, default=3.0, help="of timing, for each network")
    add("--no_floor", action="store_true", help="do not measure the device's rates")
    add("--json", metavar="FILE", help="write the rows there, too")
    args = parser.parse_args(argv)
    for name in ("batch", "classes"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}={getattr(args, name)} must be 1 or more.")
    if args.compile and args.backend != "torch":
        parser.error("--compile is for --backend=torch; jax always compiles.")
    exported = args.backend in EXPORTS
    if exported and (args.unfolded or args.precision != "float32"):
        parser.error(
            f"--backend={args.backend} runs an export, which is float32 with batch "
            "normalisation folded; leave out --unfolded and --precision."
        )
    protocol = Protocol(
        args.backend,
        args.precision,
        args.size,
        args.batch,
        args.classes,
        not args.unfolded,
        args.end,
        args.host_copy or exported,  # these runtimes know no other result
        args.compile,
    )
    job.keep_memory()
    try:
        names = [name for pattern in args.names for name in matching(pattern)]
        names = names or list(models.names())
        done = []
        table = rows(names, protocol, args.seconds, not args.no_floor)
        for row in progress(table, len(names), "networks"):
            if not done:
                print(describe(protocol, row["device"], row["versions"]))
                print(_LINE.format(*_HEAD))
            done.append(row)
            _print_row(row)
            if args.json:  # after each: a long table may be stopped
                pathlib.Path(args.json).write_text(json.dumps(done, indent=2) + "\n")
    except ValueError as error:
        parser.error(str(error))


def _print_row(row: dict[str, Any]) -> None:
    floor_ms = row.get("floor_ms")
    print(
        _LINE.format(
            row["name"],
            *(f"{row[key]:.1f}" for key in ("median_ms", "p95_ms", "min_ms")),
            f"{row['images_per_second']:.2f}",
            "-" if floor_ms is None else f"{floor_ms:.1f}",
            "-" if floor_ms is None else f"{row['median_ms'] / floor_ms:.1f}",
            f"{row['macs'] / 1e9:.2f}",
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()

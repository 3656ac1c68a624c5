"""Prints what each network costs, beside what its paper prints.

    python -m eseg_jax.tools.summary [names…] [--size=HxW] [--classes=19]
        [--training] [--json]

A name may be a pattern: 'dfanet_*' is every row of DFANet's tables. The paper's figures
are for its own size and 19 classes: elsewhere they are left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import re
import textwrap

from eseg_jax import models
from eseg_jax.models import cost

_CLASSES = 19
_UNITS = """
parameters  trainable numbers, those of heads that only training uses included
deployed    trainable numbers without those heads
statistics  running means and variances of batch normalisation
MB          4 bytes for each parameter and statistic, / 1e6
MACs        multiply-adds of the convolutions
FLOPs       as the paper counts them: multiply-adds, and what it adds to them
Params      as printed: M is millions of weights, MB is megabytes of float32
"""


def main(argv: list[str] | None = None) -> None:
    """Runs the command; `argv` are its arguments, None those of the process."""
    parser = argparse.ArgumentParser(
        prog="python -m eseg_jax.tools.summary",
        description=__doc__.splitlines()[0],
    )
    parser.add_argument("names", nargs="*", help="models or patterns; all without any")
    parser.add_argument(
        "--size",
        type=parse_size,
        metavar="HxW",
        help="of the image; default: the paper's",
    )
    parser.add_argument("--classes", type=int, default=_CLASSES, help="of the logits")
    parser.add_argument(
        "--training", action="store_true", help="count a pass with the training heads"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    args = parser.parse_args(argv)
    if args.classes < 1:
        parser.error(f"--classes={args.classes} must be 1 or more.")
    try:
        names = [name for pattern in args.names for name in matching(pattern)]
    except ValueError as error:  # stops before the first count
        parser.error(str(error))
    rows = (
        _row(cost.count(name, args.size, args.classes, training=args.training))
        for name in names or models.names()
    )
    if args.json:
        print(json.dumps(list(rows), indent=2))
    else:
        _print_table(rows)


def matching(pattern: str) -> list[str]:
    """The names that a pattern matches; ValueError if there are none."""
    found = fnmatch.filter(models.names(), pattern)
    if not found:
        models.info(pattern)  # names what comes near
    return found


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of "HxW", for argparse."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not HEIGHTxWIDTH in pixels, such as 1024x2048"
        )
    return int(match[1]), int(match[2])


def _row(counted: cost.Cost) -> dict:
    """A count as JSON: the paper's figures in its units, None where there is none."""
    info = models.info(counted.name)
    row = dataclasses.asdict(counted)
    row["parts"] = {
        part: {"parameters": parameters, "macs": macs}
        for part, (parameters, macs) in counted.parts.items()
    }
    comparable = counted.num_classes == _CLASSES
    row["megabytes"] = 4 * (counted.parameters + counted.batch_stats) / 1e6
    params = info.params_m if comparable else None
    size_mb = info.size_mb if comparable else None
    flops = info.flops_g if comparable and counted.size == info.size else None
    counted_params = counted.parameters if info.with_heads else counted.deployed
    row["paper"] = {
        "source": info.source,
        "parameters_m": params,
        "parameters_error": _error(counted_params / 1e6, params),
        "size_mb": size_mb,
        "size_error": _error(row["megabytes"], size_mb),
        "flops_g": flops,
        "flops_error": _error(counted.paper_flops / 1e9, flops),
        "note": info.note,
    }
    return row


def _error(ours: float, printed: float | None) -> float | None:
    """(ours - printed) / printed."""
    return None if printed is None else ours / printed - 1


_LINE = "{:<24} {:>9} {:>11} {:>11} {:>10} {:>6} {:>8} {:>8} {:>8} {:>7} {:>6} {:>7}"


def _print_table(rows) -> None:
    """Prints a row as soon as it is counted; then the units and the notes."""
    print(_LINE.format(*[""] * 8, "paper:", "", "", ""))
    print(
        _LINE.format(
            "model",
            "size",
            "parameters",
            "deployed",
            "statistics",
            "MB",
            "MACs G",
            "FLOPs G",
            "Params",
            "error",
            "FLOPs",
            "error",
        )
    )
    notes: dict[str, list[str]] = {}
    for row in rows:
        paper = row["paper"]
        if paper["size_mb"] is None:
            params = _optional("{:g}M", paper["parameters_m"])
            params_error = paper["parameters_error"]
        else:
            params = _optional("{:g}MB", paper["size_mb"])
            params_error = paper["size_error"]
        print(
            _LINE.format(
                row["name"],
                "{}x{}".format(*row["size"]),
                f"{row['parameters']:,}",
                f"{row['deployed']:,}",
                f"{row['batch_stats']:,}",
                f"{row['megabytes']:.2f}",
                f"{row['macs'] / 1e9:.3f}",
                f"{row['paper_flops'] / 1e9:.3f}",
                params,
                _optional("{:+.2%}", params_error),
                _optional("{:g}", paper["flops_g"]),
                _optional("{:+.2%}", paper["flops_error"]),
            ),
            flush=True,
        )
        if paper["note"]:
            notes.setdefault(paper["note"], []).append(row["name"])
    print(_UNITS)
    for note, names in notes.items():
        print(textwrap.fill(f"{', '.join(names)}: {note}", 88, subsequent_indent="  "))


def _optional(pattern: str, value: float | None) -> str:
    return "-" if value is None else pattern.format(value)


if __name__ == "__main__":
    main()

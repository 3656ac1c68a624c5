"""Prints what each network costs, beside what its paper prints.

    python -m eseg_jax.tools.summary [names…] [--size=HxW] [--classes=19] [--json]

MACs are multiply-adds of convolutions, FLOPs are as the paper counts them. The paper's
figures are for its own size and 19 classes: elsewhere they are left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re

from eseg_jax import models
from eseg_jax.models import cost

_CLASSES = 19


def main(argv: list[str] | None = None) -> None:
    """Runs the command; `argv` are its arguments, None those of the process."""
    parser = argparse.ArgumentParser(
        prog="python -m eseg_jax.tools.summary",
        description=__doc__.splitlines()[0],
    )
    parser.add_argument("names", nargs="*", help="models; all without any")
    parser.add_argument(
        "--size", type=_size, metavar="HxW", help="of the image; default: the paper's"
    )
    parser.add_argument("--classes", type=int, default=_CLASSES, help="of the logits")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    args = parser.parse_args(argv)
    if args.classes < 1:
        parser.error(f"--classes={args.classes} must be 1 or more.")
    try:
        for name in args.names:
            models.info(name)  # a typo in the last name stops before the first count
    except ValueError as error:
        parser.error(str(error))
    rows = (
        _row(cost.count(name, args.size, args.classes))
        for name in args.names or models.names()
    )
    if args.json:
        print(json.dumps(list(rows), indent=2))
    else:
        _print_table(rows)


def _size(text: str) -> tuple[int, int]:
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
    params = info.params_m if comparable else None
    flops = info.flops_g if comparable and counted.size == info.size else None
    row["paper"] = {
        "source": info.source,
        "parameters_m": params,
        "parameters_error": _error(counted.parameters / 1e6, params),
        "flops_g": flops,
        "flops_error": _error(counted.paper_flops / 1e9, flops),
    }
    return row


def _error(ours: float, printed: float | None) -> float | None:
    """(ours - printed) / printed."""
    return None if printed is None else ours / printed - 1


_LINE = "{:<18} {:>9} {:>11} {:>11} {:>9} {:>9} {:>7} {:>7} {:>7} {:>7}"


def _print_table(rows) -> None:
    """Prints a row as soon as it is counted."""
    print(_LINE.format("", "", "", "batch", "", "FLOPs", "paper", "", "paper", ""))
    print(
        _LINE.format(
            "model",
            "size",
            "parameters",
            "statistics",
            "MACs G",
            "G",
            "par. M",
            "error",
            "G",
            "error",
        )
    )
    for row in rows:
        paper = row["paper"]
        print(
            _LINE.format(
                row["name"],
                "{}x{}".format(*row["size"]),
                f"{row['parameters']:,}",
                f"{row['batch_stats']:,}",
                f"{row['macs'] / 1e9:.3f}",
                f"{row['paper_flops'] / 1e9:.3f}",
                _optional("{:g}", paper["parameters_m"]),
                _optional("{:+.2%}", paper["parameters_error"]),
                _optional("{:g}", paper["flops_g"]),
                _optional("{:+.2%}", paper["flops_error"]),
            ),
            flush=True,
        )


def _optional(pattern: str, value: float | None) -> str:
    return "-" if value is None else pattern.format(value)


if __name__ == "__main__":
    main()

"""Converts weights from elsewhere into a file that config.init_from takes.

    python -m eseg_jax.tools.convert --model=NAME --source=FILE --output=DIR
    python -m eseg_jax.tools.convert --list

FILE is .npz, .safetensors, .pth or .pt (with the extra `convert`), a TensorFlow
checkpoint, or the workdir of a run. DIR gets weights.npz and weights.json, which says
where the weights come from, under which licence, and what was left out.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json

import numpy as np
from etils import epath

from eseg_jax import init_from, models
from eseg_jax.models import weight_files, weights
from eseg_jax.trees import count_parameters, flatten_names


def main(argv: list[str] | None = None) -> None:
    """Runs the command; `argv` are its arguments, None those of the process."""
    parser = argparse.ArgumentParser(
        prog="python -m eseg_jax.tools.convert",
        description=__doc__.splitlines()[0],
    )
    parser.add_argument("--list", action="store_true", help="print the known sources")
    parser.add_argument("--model", help="one of our networks, see tools.summary")
    parser.add_argument("--source", help="file, TensorFlow checkpoint or workdir")
    parser.add_argument("--output", help="folder for weights.npz and weights.json")
    parser.add_argument(
        "--num_classes",
        type=int,
        help="of the network or classifier in the source; default: 19, or ImageNet's "
        "1000 with --classifier",
    )
    parser.add_argument(
        "--classifier",
        action="store_true",
        help="keep the classifier of images beside the backbone",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="field of the variant, such as deep_supervision=False; may be repeated",
    )
    args = parser.parse_args(argv)
    if args.list:
        _print_sources()
        return
    missing = [x for x in ("model", "source", "output") if not getattr(args, x)]
    if missing:
        parser.error(f"give --{', --'.join(missing)}, or --list.")
    num_classes = args.num_classes or (1000 if args.classifier else 19)
    try:
        options = dict(map(_option, args.option))
        record = convert(
            args.model,
            args.source,
            args.output,
            num_classes,
            classifier=args.classifier,
            **options,
        )
    except ValueError as error:
        parser.exit(1, f"convert: {error}\n")
    _print_record(record, args.output)


def convert(
    name: str,
    source: str,
    output: str,
    num_classes: int,
    *,
    classifier: bool = False,
    **options,
) -> dict:
    """Writes weights.npz and weights.json into `output`; returns what the latter has.

    Arguments and errors are those of `weights.convert`; `source` may be a run too.
    """
    arrays, path = source, epath.Path(source)
    run = path.is_dir() and not weight_files.is_tensorflow(path)
    if run:
        arrays = init_from.read(path)
    elif weight_files.is_tensorflow(path):
        # Here, as the other kinds of file do without TensorFlow.
        from eseg_jax.input import tf_checkpoint

        arrays = tf_checkpoint.read(path)
    variables, record = weights.translate(
        name,
        arrays,
        num_classes,
        classifier=classifier,
        origin=str(source),
        **options,
    )
    digest = None if run else weight_files.digest(source)
    rows = weights.sources_of(name, record["naming"])
    known = {key: row for key, row in rows.items() if digest in row.sha256}
    record = {
        "model": name,
        "options": options,
        "num_classes": num_classes,
        "classifier": classifier,
        "source": str(source),
        "sha256": digest,
        # By its digest, or else by its names alone.
        "identified": bool(known),
        "origins": {
            key: dataclasses.asdict(row) for key, row in (known or rows).items()
        },
        "parameters": count_parameters(variables["params"]),
        **record,
    }
    folder = epath.Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / init_from.FILE).open("wb") as file:
        np.savez(file, **flatten_names(variables))
    text = json.dumps(record, indent=2, ensure_ascii=False)
    (folder / init_from.FILE).with_suffix(".json").write_text(text + "\n")
    return record


def _option(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--option={text} is not NAME=VALUE.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _print_record(record: dict, output: str) -> None:
    name = record["model"]
    print(
        f"{name}: {record['part']}, {record['parameters']:,} parameters, "
        f"named like {record['naming']} -> {output}"
    )
    dropped = [x for x in record["dropped"] if not x.endswith("num_batches_tracked")]
    if dropped:
        print(f"  left out: {', '.join(dropped)}")
    info = models.info(name)
    for key, row in record["origins"].items():
        print(f"  {'from' if record['identified'] else 'perhaps'} {key}")
        print(f"    {row['where']}")
        print(f"    licence: {row['licence']}")
        if row["note"]:
            print(f"    note: {row['note']}")
        if (row["mean"], row["std"]) != (info.mean, info.std):
            print(
                f"    CAUTION: made for images with mean {row['mean']} and std "
                f"{row['std']}; {name} subtracts {info.mean} and divides by {info.std}."
            )


def _print_sources() -> None:
    for key, row in weights.SOURCES.items():
        print(f"{key}\n  for      {row.models}\n  from     {row.where}")
        print(f"  licence  {row.licence}")
        size = f", {row.size} pixels" if row.size else ""
        print(f"  images   mean {row.mean}, std {row.std}{size}")
        if row.note:
            print(f"  note     {row.note}")


if __name__ == "__main__":
    main()

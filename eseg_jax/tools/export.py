"""Writes a trained network for another runtime and checks it there.

    python -m eseg_jax.tools.export --workdir=DIR --format=onnx,litert --output=OUT

Batch normalisation and ESeg's fusion weights are folded, training heads are left out.
OUT gets model.stablehlo (for cpu, cuda and tpu in one), saved_model, model.tflite or
model.onnx, and beside it a JSON that says what it takes and gives and how it compares
with the network it was made from, on real images and in its own runtime. Ends with 1
when the comparison fails. `eseg_jax.load` and tools.predict take the result.

Images are float32 [n, h, w, 3], normalised, or with --uint8 RGB as it is. The result
is the logits at the network's own stride, or with --enlarge at the size of the images,
or with --argmax the labels there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from eseg_jax import inference, init_from, input, models, state, steps
from eseg_jax.export import compare, formats
from eseg_jax.export.runtimes import Exported
from eseg_jax.tools.predict import find
from eseg_jax.trees import differences, flatten_names, unflatten_names

_CALIBRATION_IMAGES = 200


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = _parse(argv)
    try:
        return export(args)
    except (ValueError, OSError) as error:
        if os.environ.get("ESEG_JAX_TRACEBACK"):
            raise
        print(f"eseg_jax: {error}", file=sys.stderr)
        return 2


def _parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m eseg_jax.tools.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_argument_group("what to export")
    source.add_argument(
        "--workdir", "--checkpoint", dest="source", help="a run or its checkpoint"
    )
    source.add_argument(
        "--weights",
        default="ema",
        help="of the checkpoint, ema or raw; or a weights.npz of tools.convert for "
        "--model, without a checkpoint",
    )
    source.add_argument("--model", help="of a weights.npz: the network's name")
    result = parser.add_argument_group("the result")
    result.add_argument(
        "--format",
        required=True,
        type=lambda text: text.split(","),
        help=f"of {','.join(formats.FILES)}",
    )
    result.add_argument("--output", required=True, help="folder")
    result.add_argument(
        "--size", type=_size, help="H,W; default: that of the first image"
    )
    result.add_argument(
        "--batch", type=_batch, default=1, help="a number, or dynamic (not for LiteRT)"
    )
    kind = result.add_mutually_exclusive_group()
    for option, value, text in (
        ("--argmax", "labels", "labels, uint8 [n, h, w]"),
        ("--enlarge", "enlarged", "logits of the images' size"),
    ):
        kind.add_argument(
            option, dest="kind", action="store_const", const=value, help=text
        )
    result.add_argument(
        "--uint8", action="store_true", help="take uint8 RGB and normalise inside"
    )
    result.add_argument(
        "--quantize",
        default="",
        choices=("float16", "int8"),
        help="of LiteRT: weights, or all that can be",
    )
    check = parser.add_argument_group("images")
    check.add_argument(
        "--images",
        nargs="+",
        help="files, folders or patterns to compare on; default: the evaluation split "
        "of the run, with mIoU",
    )
    check.add_argument(
        "--limit", type=int, default=20, help="compare on so many; 0 is all of them"
    )
    check.add_argument(
        "--calibration",
        nargs="+",
        help=f"images for int8; up to {_CALIBRATION_IMAGES} are taken",
    )
    args = parser.parse_args(argv)
    is_file = args.weights not in ("ema", "raw")
    if is_file == bool(args.source) or is_file != bool(args.model):
        parser.error("give --workdir, or --weights=FILE and --model.")
    if (args.quantize == "int8") != bool(args.calibration):
        parser.error("--quantize=int8 and --calibration=IMAGES go together.")
    if is_file and not args.images:
        parser.error("a file of weights has no dataset to compare on: give --images.")
    return args


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in text.split(","))
    except ValueError:
        height = width = 0
    if min(height, width) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write H,W")
    return height, width


def _batch(text: str) -> int:
    if text == "dynamic":
        return 0
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor dynamic")
    return int(text)


def export(args: argparse.Namespace) -> int:
    """Exports, compares, prints; 0 where all formats pass, 1 where one does not."""
    if args.model:
        model, variables, meta, config = *_from_file(args.model, args.weights), None
    else:
        network = inference.load_network(args.source, args.weights, "float32")
        model, variables, config = network.model, network.variables, network.config
        info = models.info(config.model.name)
        meta = {
            "model": config.model.name,
            "source": str(network.folder),
            "weights": args.weights,
            "class_names": list(network.class_names),
            "colours": network.colours.tolist(),
            "mean": info.mean,
            "std": info.std,
        }
    first = next(_examples(args.images, config, 1))[0]
    all_options = [
        formats.Options(
            format,
            args.size or first.shape[:2],
            args.batch,
            args.kind or "logits",
            args.uint8,
            args.quantize,
        )
        for format in args.format
    ]
    for options in all_options:
        options.check()
    passed = [_one(args, model, variables, meta, config, x) for x in all_options]
    return 0 if all(passed) else 1


def _one(args, model, variables, meta, config, options: formats.Options) -> bool:
    """Writes, compares and prints one format; whether it passes."""

    def calibration():
        for image, _ in _examples(args.calibration, None, _CALIBRATION_IMAGES):
            x = compare.resized(image, options.size)[None]
            yield np.repeat(x, options.batch, axis=0)

    @jax.jit
    def reference(images):
        x = steps.normalise(images, meta["mean"], meta["std"])
        return model.apply(variables, x, train=False)["logits"]

    path = formats.write(
        model, variables, options, args.output, meta=meta, calibration=calibration
    )
    exported = Exported(path)
    result = compare.compare(
        lambda images: np.asarray(reference(images)),
        exported,
        models.enlarge(model),
        _examples(args.images, config, args.limit or None),
        len(meta["class_names"]),
    )
    formats.write_meta(path, exported.meta | {"comparison": result})
    print(f"{path} {json.dumps(result)}")
    if not result["passed"]:
        print(f"eseg_jax: {path} differs from its network.", file=sys.stderr)
    return result["passed"]


def _from_file(name: str, path: str):
    """The network of a weights.npz: model, variables, and what is known about it."""
    arrays = init_from.read(path)
    classes = [x for x in arrays if x.endswith("classifier/bias")]
    if not classes:
        raise ValueError(f"{path} has no classifier; it holds no whole network.")
    count = arrays[classes[0]].size
    model = models.create(name, count)
    shapes = jax.eval_shape(lambda: state.init_variables(model, jax.random.key(0)))
    wanted = flatten_names(shapes)
    if lines := differences(arrays, wanted):
        raise ValueError(f"{path} does not fit {name}: {'; '.join(lines[:5])}.")
    info = models.info(name)
    colours = np.random.default_rng(0).integers(0, 256, (count, 3)).tolist()
    meta = {
        "model": name,
        "source": path,
        "class_names": [f"class {i}" for i in range(count)],
        "colours": colours,
        "mean": info.mean,
        "std": info.std,
    }
    return model, unflatten_names(arrays), meta


def _examples(
    images: Iterable[str] | None, config, limit: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Images uint8 [h, w, 3] of files, or of the evaluation split with their labels."""
    if images is not None:
        items, _ = find(images)
        for item in items[:limit]:
            yield inference.read_image(item.path), None
        return
    config = config.copy_and_resolve_references()
    config.eval.batch_size = 1
    config.input.cache_gb = 0.0  # each image is read once
    count = 0
    for batch in input.eval_batches(config):
        if count == limit:
            return
        count += 1
        yield batch["image"][0], batch["label"][0]


if __name__ == "__main__":
    sys.exit(main())

"""Writes a network for another runtime, beside it a JSON that says what it is."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eseg_jax import __version__, models
from eseg_jax.export import onnx_format, tf_format
from eseg_jax.export.errors import ExportError
from eseg_jax.export.graph import trace
from eseg_jax.models.folding import fold
from eseg_jax.ops.most_likely import most_likely
from eseg_jax.steps import normalise

# format: the name of its file or folder.
FILES = {
    "stablehlo": "model.stablehlo",
    "saved_model": "saved_model",
    "litert": "model.tflite",
    "onnx": "model.onnx",
}
_PLATFORMS = ("cpu", "cuda", "tpu")


@dataclasses.dataclass(frozen=True)
class Options:
    """What an export takes and what it gives.

    Attributes:
      format: a key of `FILES`.
      size: (h, w) of the images.
      batch: how many at once; 0 is any number.
      output: "logits" as the network gives them, smaller than the images; "enlarged"
        to the size of the images; or "labels" of that size, uint8.
      uint8: images come as uint8 RGB and are normalised inside; else as float32,
        normalised already.
      quantize: "", or for LiteRT "float16" or "int8".
    """

    format: str
    size: tuple[int, int]
    batch: int = 1
    output: str = "logits"
    uint8: bool = False
    quantize: str = ""

    def check(self) -> None:
        """Raises ExportError for what does not go together."""
        if self.format not in FILES:
            raise ExportError(
                f"There is no format {self.format!r}; choose of {', '.join(FILES)}."
            )
        if self.quantize and self.format != "litert":
            raise ExportError(
                f"{self.format} is written in float32; {self.quantize} is for litert."
            )
        if self.quantize not in tf_format.QUANTIZATIONS:
            raise ExportError(
                f"There is no quantization {self.quantize!r}; choose float16 or int8."
            )
        if self.format == "litert" and not self.batch:
            raise ExportError("LiteRT takes a fixed batch; give its size, --batch=1.")


def write(
    model,
    variables: Mapping[str, Any],
    options: Options,
    folder: str,
    *,
    meta: Mapping[str, Any],
    calibration: Callable[[], Iterable[np.ndarray]] | None = None,
) -> pathlib.Path:
    """Exports a network.

    Args:
      model, variables: see `models.create`; float32 is the type to create it with.
      options: what to write.
      folder: the file is called FILES[options.format] there, with the quantization
        behind its stem.
      meta: "model" (its name), "mean", "std", "class_names", "colours" and more.
      calibration: for int8, uint8 images [n, *size, 3].

    Returns:
      the path of the file, or of the folder of a SavedModel.
    """
    options.check()
    path = pathlib.Path(folder) / FILES[options.format]
    if options.quantize:
        path = path.with_stem(f"{path.stem}_{options.quantize}")
    path.parent.mkdir(parents=True, exist_ok=True)
    mean, std = meta["mean"], meta["std"]
    network = _network(model, variables, options, mean, std)
    batch = options.batch or jax.export.symbolic_shape("batch")[0]
    dtype = jnp.uint8 if options.uint8 else jnp.float32
    images = jax.ShapeDtypeStruct((batch, *options.size, 3), dtype)

    def calibrate():
        for x in calibration():
            yield x if options.uint8 else np.asarray(normalise(x, mean, std))

    name = "labels" if options.output == "labels" else "logits"
    match options.format:
        case "stablehlo":
            exported = jax.export.export(jax.jit(network), platforms=_PLATFORMS)(images)
            path.write_bytes(exported.serialize())
        case "onnx":
            onnx_format.write(*trace(network, images), name, path)
        case "saved_model":
            tf_format.write_saved_model(*trace(network, images), name, path)
        case "litert":
            nodes = trace(network, images)
            tf_format.write_litert(*nodes, name, path, options.quantize, calibrate)
    write_meta(
        path,
        {
            **meta,
            **dataclasses.asdict(options),
            "size": list(options.size),
            "align_corners": _aligns_corners(models.enlarge(model)),
            "platforms": _PLATFORMS if options.format == "stablehlo" else None,
            "versions": {"eseg_jax": __version__, "jax": jax.__version__},
        },
    )
    return path


def _network(model, variables, options: Options, mean, std):
    variables, enlarge = fold(model, variables), models.enlarge(model)

    def network(images: jax.Array) -> jax.Array:
        x = normalise(images, mean, std) if options.uint8 else images
        logits = model.apply(variables, x, train=False)["logits"]
        if options.output == "logits":
            return logits
        logits = enlarge(logits, options.size)
        if options.output == "enlarged":
            return logits
        return most_likely(logits)

    return network


def _aligns_corners(enlarge) -> bool:
    """How whoever enlarges the logits has to do it."""
    x = jnp.arange(2.0).reshape(1, 2, 1, 1)
    # From two pixels to four the second one is 1/4, with aligned corners 1/3.
    return bool(enlarge(x, (4, 1))[0, 1, 0, 0] > 0.3)


def meta_path(path: str) -> pathlib.Path:
    """Where the JSON of an export lies."""
    path = pathlib.Path(path)
    return path.with_name(f"{path.name}.json")


def write_meta(path: str, meta: Mapping[str, Any]) -> None:
    meta_path(path).write_text(json.dumps(meta, indent=2) + "\n")


def read_meta(path: str) -> dict[str, Any]:
    """What `write` noted about an export; ExportError where the JSON is missing."""
    file = meta_path(path)
    if not file.exists():
        raise ExportError(
            f"{path} has no {file.name} beside it, which names its classes and how "
            "its images are normalised; copy it along or export again."
        )
    return json.loads(file.read_text())

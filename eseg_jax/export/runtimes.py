"""Exports in the runtimes that they were written for."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from eseg_jax.export.errors import ExportError, needed
from eseg_jax.export.formats import read_meta
from eseg_jax.steps import normalise

Network = Callable[[np.ndarray], np.ndarray]


def find_format(path: str | os.PathLike) -> str | None:
    """Which format the path is an export in, by its name; None if in none."""
    path = pathlib.Path(path)
    if (path / "saved_model.pb").exists():
        return "saved_model"
    suffixes = {".onnx": "onnx", ".tflite": "litert", ".stablehlo": "stablehlo"}
    return suffixes.get(path.suffix)


def load_runtime(path: str | os.PathLike, threads: int | None = None) -> Network:
    """Loads an export into its own runtime.

    Args:
      path: a file .onnx, .tflite or .stablehlo, or the folder of a SavedModel. It need
        not be this library's: one input, one output is enough.
      threads: how many the runtime may use; None leaves it all cores. ONNX and LiteRT
        alone heed it.

    Returns:
      images -> logits or labels: arrays of the type and the shape of the file. The
      first call of StableHLO and SavedModel takes longer.

    Raises:
      ExportError: it is none of these, or the runtime is not installed.
    """
    loaders = {
        "stablehlo": _stablehlo,
        "saved_model": _saved_model,
        "litert": _litert,
        "onnx": _onnx,
    }
    kind = find_format(path)
    if kind is None or not os.path.exists(path):
        raise ExportError(
            f"{path} is no export: give a file .onnx, .tflite or .stablehlo, or the "
            "folder of a SavedModel."
        )
    return loaders[kind](str(path), threads)


class Exported:
    """An export and its JSON: from uint8 images to logits or labels.

    Attributes:
      meta: see `formats.write`.
      run: see `load_runtime`.
    """

    def __init__(self, path: str | os.PathLike, threads: int | None = None):
        self.meta: dict[str, Any] = read_meta(path)
        self.run = load_runtime(path, threads)

    @property
    def gives_labels(self) -> bool:
        return self.meta["output"] == "labels"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 [n, *meta["size"], 3] -> what `Options.output` says."""
        batch = self.meta["batch"] or len(images)
        filled = -len(images) % batch
        x = np.concatenate([images, np.repeat(images[-1:], filled, axis=0)])
        if not self.meta["uint8"]:
            x = np.asarray(normalise(x, self.meta["mean"], self.meta["std"]))
        parts = [self.run(x[i : i + batch]) for i in range(0, len(x), batch)]
        return np.concatenate(parts)[: len(images)]


def _stablehlo(path: str, threads: int | None) -> Network:
    del threads
    exported = jax.export.deserialize(bytearray(pathlib.Path(path).read_bytes()))
    call = jax.jit(exported.call)
    return lambda images: np.asarray(call(images))


def _saved_model(path: str, threads: int | None) -> Network:
    del threads
    with needed("tensorflow"):
        from eseg_jax.input.tf_cpu import tf
    signature = tf.saved_model.load(path).signatures["serving_default"]
    (name,) = signature.structured_input_signature[1]

    def run(images):
        (output,) = signature(**{name: tf.constant(images)}).values()
        return output.numpy()

    return run


def _litert(path: str, threads: int | None) -> Network:
    with needed("ai_edge_litert"):
        from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=threads or os.cpu_count())
    try:
        interpreter.allocate_tensors()
    except RuntimeError as error:
        raise ExportError(f"LiteRT cannot run {path}: {error}") from error
    (source,), (output,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )

    def run(images):
        interpreter.set_tensor(source["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(output["index"])

    return run


def _onnx(path: str, threads: int | None) -> Network:
    with needed("onnxruntime"):
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3  # errors: it warns of what its own passes leave
    session = onnxruntime.InferenceSession(
        path, options, providers=onnxruntime.get_available_providers()
    )
    (source,) = session.get_inputs()
    return lambda images: session.run(None, {source.name: images})[0]

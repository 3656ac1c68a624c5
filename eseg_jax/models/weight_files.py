"""Files of weights -> {name: float32 array}, by the kind that their name says.

torch is imported by the one function that needs it. Nothing here runs code out of a
file: arrays are read with pickling off or restricted to tensors. TensorFlow's
checkpoints are read by `eseg_jax.input.tf_checkpoint`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from etils import epath

# The numbers of a safetensors file by their type's name.
_SAFETENSORS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_KINDS = ".npz, .safetensors, .pth or .pt, or the prefix of a TensorFlow checkpoint"


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit; says which and how to mend it."""


def read(path) -> dict[str, np.ndarray]:
    """The arrays of a file by name, floating ones as float32.

    Args:
      path: .npz, .safetensors, .pth or .pt (a state dict, or a dict with one under
        "state_dict"; needs torch).

    Raises:
      WeightsError: no such file, another kind, a broken file, or torch is missing.
    """
    path, kind = epath.Path(path), epath.Path(path).suffix
    if is_tensorflow(path):
        raise WeightsError(
            f"{path} is a TensorFlow checkpoint: python -m eseg_jax.tools.convert "
            "takes it; in Python give the arrays of eseg_jax.input.tf_checkpoint.read."
        )
    elif path.is_dir():
        raise WeightsError(
            f"{path} is a folder without a TensorFlow checkpoint; name one of {_KINDS}."
        )
    elif not path.exists():
        raise WeightsError(f"There is no file {path}; name one of {_KINDS}.")
    elif kind == ".npz":
        reader = _read_npz
    elif kind == ".safetensors":
        reader = _read_safetensors
    elif kind in (".pth", ".pt"):
        reader = _read_torch
    else:
        raise WeightsError(f"{path} is no file of weights; name one of {_KINDS}.")
    try:
        arrays = reader(path)
    except WeightsError:
        raise
    except Exception as error:  # each library has its own for a broken file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{path} cannot be read ({reason}); it may be cut short, or hold more than "
            "arrays: fetch it again, or save the arrays alone."
        ) from error
    return {
        name: np.asarray(x, np.float32) if jnp.issubdtype(x.dtype, np.floating) else x
        for name, x in arrays.items()
    }


def is_tensorflow(path) -> bool:
    """Whether a path is the prefix, index or folder of a TensorFlow checkpoint."""
    path = epath.Path(path)
    index = path.suffix == ".index" or path.with_name(path.name + ".index").exists()
    return index or (path.is_dir() and (path / "checkpoint").exists())


def digest(path) -> str:
    """SHA-256 of a file; of a TensorFlow checkpoint that of its files in turn."""
    path = epath.Path(path)
    files = [path]
    if not path.is_file():
        parent, name = (path, "") if path.is_dir() else (path.parent, path.name)
        files = sorted(x for x in parent.iterdir() if x.name.startswith(name))
    sha = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                sha.update(block)
    return sha.hexdigest()


def _read_npz(path) -> dict[str, np.ndarray]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_safetensors(path) -> dict[str, np.ndarray]:
    """8 bytes of length, as much JSON, and the bytes of the arrays, little-endian."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        first, last = (start + offset for offset in entry["data_offsets"])
        arrays[name] = np.frombuffer(
            content[first:last], _SAFETENSORS[entry["dtype"]]
        ).reshape(entry["shape"])
    return arrays


def _read_torch(path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"Reading {path} needs PyTorch: pip install 'eseg_jax[convert]', or save "
            "the arrays as .npz where PyTorch is installed."
        ) from error
    # Tensors only: a pickle may not run code.
    with path.open("rb") as file:
        state = torch.load(file, map_location="cpu", weights_only=True)
    if isinstance(state, Mapping) and "state_dict" in state:
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(
        isinstance(x, torch.Tensor) for x in state.values()
    ):
        held = list(state)[:8] if isinstance(state, Mapping) else type(state).__name__
        raise WeightsError(
            f"{path} holds no state dict at the top or under 'state_dict' but {held}; "
            "save model.state_dict() of it."
        )
    return {
        name: (x.float() if x.is_floating_point() else x).numpy()
        for name, x in state.items()
    }

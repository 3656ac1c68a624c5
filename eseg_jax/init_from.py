"""`config.init_from`: what a new run starts from, instead of random numbers."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from eseg_jax import checkpoint
from eseg_jax.models import weight_files
from eseg_jax.models.classifier import source_name
from eseg_jax.models.weight_files import WeightsError
from eseg_jax.models.weights import in_backbone, is_classifier
from eseg_jax.trees import differences, flatten_names, unflatten_names

_logger = logging.getLogger(__name__)

# What tools.convert writes into its folder.
FILE = "weights.npz"


def load_initial(path, part: str, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Variables to start from, as arrays of numpy.

    Args:
      path: a folder of tools.convert or its .npz; or another run's workdir or one of
        its checkpoints, of which the moving averages are taken. The run may be one of
        a classifier.
      part: "all"; "all_but_classifier", whose layers keep their random start, for a
        network of other classes; or "backbone": no decoder and no classifier. DFANet's
        sub-networks all start from the first, as far as their inputs have its width,
        and their attention from the classifier of images if that has its width.
      shapes: {"params", "batch_stats"} of the network that starts.

    Returns:
      {"params", "batch_stats"}: all of the part, and no others.

    Raises:
      WeightsError: nothing to read at `path`; or names are missing, too many or of
        another shape, all of them listed.
    """
    if part not in ("all", "backbone", "all_but_classifier"):
        raise WeightsError(
            f"config.init_part = {part!r}: must be all, backbone or all_but_classifier."
        )
    found, wanted = read(path), flatten_names(dict(shapes))
    if part == "all_but_classifier":
        found, wanted = (
            {name: x for name, x in tree.items() if not is_classifier(name)}
            for tree in (found, wanted)
        )
    if part == "backbone":
        sources = _backbone_sources(found, wanted)
        wanted = {ours: wanted[ours] for ours in sources}
        # By our names, and what of the backbone nothing of ours starts from.
        used = set(sources.values())
        found = {ours: found[x] for ours, x in sources.items() if x in found} | {
            x: found[x] for x in found if in_backbone(x) and x not in used
        }
    lines = differences(found, wanted)
    if lines:
        listed = "\n  ".join(lines)
        whole = "the backbone" if part == "backbone" else "the whole"
        raise WeightsError(
            f"{path} does not fit {whole} of the configuration's model "
            f"({len(lines)} differences). {_hint(part, found, wanted)}\n  {listed}"
        )
    _logger.info("Starting from %s: %s, %d arrays.", path, part, len(found))
    return unflatten_names(
        {name: np.asarray(x, np.float32) for name, x in found.items()}
    )


def read(path) -> dict[str, np.ndarray]:
    """Our variables by name ("params/…", "batch_stats/…") from a file or a run."""
    path = epath.Path(path)
    if (path / FILE).exists():
        path = path / FILE
    if path.suffix != ".npz":
        folder = checkpoint.find(path)
        return flatten_names(checkpoint.read_variables(folder, None, "ema"))
    arrays = weight_files.read(path)
    foreign = [x for x in arrays if not re.match("(params|batch_stats)/", x)]
    if foreign:
        raise WeightsError(
            f"{path} has names of other software ({', '.join(foreign[:3])}, …); "
            "convert it first with python -m eseg_jax.tools.convert."
        )
    return arrays


def _backbone_sources(found: Mapping, wanted: Mapping) -> dict[str, str]:
    """{our name: the name of what it starts from} for all of our backbone."""
    sources = {}
    for ours, leaf in wanted.items():
        collection, name = ours.split("/", 1)
        trunk = source_name(name)
        theirs = f"{collection}/{trunk}"
        if in_backbone(ours) and ours in found:
            sources[ours] = ours
        elif in_backbone(ours) and trunk is not None:
            sources[ours] = theirs
        elif trunk is not None and theirs in found:
            if found[theirs].shape == leaf.shape:
                sources[ours] = theirs
            else:
                _logger.info("%s keeps its random start: other classes.", ours)
    return sources


def _hint(part: str, found: Mapping, wanted: Mapping) -> str:
    if part == "all" and all(map(in_backbone, found)):
        return "It holds a backbone alone: set config.init_part=backbone."
    if found.keys() == wanted.keys() and all(
        is_classifier(name) or found[name].shape == wanted[name].shape for name in found
    ):
        return "Only the classes differ: set config.init_part=all_but_classifier."
    return "Take weights of the same network with the same options."

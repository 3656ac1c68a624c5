"""The table of where each class is, for class-uniform sampling.

  python -m eseg_jax.tools.class_centroids --config=configs/sfnet_resnet18.py \\
      --output=cityscapes_train.npz

Reads every label of the training split once. Training then uses the table with
--config.input.class_uniform=0.5 --config.input.centroids=cityscapes_train.npz.
"""

from __future__ import annotations

import numpy as np
from absl import app, flags
from ml_collections import config_flags

from eseg_jax import input as eseg_input
from eseg_jax.input import InputError, class_uniform


def build(ids, labels, num_classes: int, tile: int) -> class_uniform.Centroids:
    """The table of these labels; see `class_uniform.find`."""
    rows = [
        (example, *place)
        for example, label in enumerate(labels)
        for place in class_uniform.find(label, num_classes, tile)
    ]
    example, class_id, *place = np.array(rows, np.int64).reshape(-1, 4).T
    return class_uniform.Centroids(
        ids=tuple(ids),
        example=example,
        class_id=class_id,
        place=np.stack(place, axis=1).astype(np.int32),
    )


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; all are --flag=value.")
    config = _CONFIG.value
    try:
        info = eseg_input.dataset_info(config)
        ids, labels = eseg_input.labels(config, config.dataset.train_split)
        table = build(ids, labels, info.num_classes, _TILE.value)
    except InputError as error:
        print(f"PROBLEM: {error}")
        return 1
    table.save(_OUTPUT.value)
    counts = np.bincount(table.class_id, minlength=info.num_classes)
    for name, found in zip(info.class_names, counts, strict=True):
        print(f"{name:<16} {found:>7} tiles")
    print(f"Stored in {_OUTPUT.value}.")
    return 0


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file(
        "config",
        help_string="Configuration file; --config.x=y changes a field.",
        lock_config=True,
    )
    _TILE = flags.DEFINE_integer(
        "tile", 1024, "Height and width of a tile; 1024 as SFNet.", lower_bound=1
    )
    _OUTPUT = flags.DEFINE_string("output", None, "File to write.", required=True)
    app.run(main)

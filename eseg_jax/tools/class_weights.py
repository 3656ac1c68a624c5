"""Class weights for the loss, from how often each class occurs.

  python -m eseg_jax.tools.class_weights --config=configs/eseg_lite_s.py:camvid

Reads every label of the training split, prints for each class its share of the labelled
pixels and two sets of weights, and stores all of it as JSON. The last lines printed are
the values of config.loss.class_weights.
"""

from __future__ import annotations

import json

import numpy as np
from absl import app, flags
from etils import epath
from ml_collections import config_flags

from eseg_jax import input as eseg_input
from eseg_jax.input import InputError


def count(labels, num_classes: int) -> np.ndarray:
    """int64 [images, classes]: labelled pixels of each class in each label."""
    return np.array(
        [np.bincount(label.ravel(), minlength=256)[:num_classes] for label in labels],
        np.int64,
    )


def enet(pixels: np.ndarray) -> np.ndarray:
    """1 / ln(1.02 + p), p the class's share of all labelled pixels (ENet §4.2)."""
    return 1 / np.log(1.02 + pixels.sum(0) / pixels.sum())


def median_frequency(pixels: np.ndarray) -> np.ndarray:
    """median(f) / f, f the class's share of the pixels of the images that have it.

    After Eigen and Fergus; 0 for a class that no image has. Only labelled pixels count
    (our choice).
    """
    has = pixels > 0
    of_its_images = (pixels.sum(1, keepdims=True) * has).sum(0)
    frequency = pixels.sum(0) / np.maximum(of_its_images, 1)
    found = frequency > 0
    weights = np.zeros(len(frequency))
    weights[found] = np.median(frequency[found]) / frequency[found]
    return weights


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; all are --flag=value.")
    config = _CONFIG.value
    split = config.dataset.train_split
    try:
        info = eseg_input.dataset_info(config)
        ids, labels = eseg_input.labels(config, split)
        pixels = count(labels, info.num_classes)
        if not pixels.sum():
            raise InputError(f"No pixel of {info.name} split {split!r} has a label.")
    except InputError as error:
        print(f"PROBLEM: {error}")
        return 1
    weights = {"enet": enet(pixels), "median_frequency": median_frequency(pixels)}
    share = pixels.sum(0) / pixels.sum()
    print(f"{info.name} split {split!r}, {len(ids)} labels")
    print(f"{'class':<16} {'pixels':>9} {'ENet':>8} {'median freq.':>13}")
    for name, *row in zip(info.class_names, share, *weights.values(), strict=True):
        print(f"{name:<16} {row[0]:>8.3%} {row[1]:>8.4f} {row[2]:>13.4f}")
    path = epath.Path(_OUTPUT.value or f"{info.name}_{split}_class_weights.json")
    stored = {
        "dataset": info.name,
        "split": split,
        "images": len(ids),
        "class_names": info.class_names,
        "pixels": pixels.sum(0).tolist(),
    }
    stored |= {name: values.round(6).tolist() for name, values in weights.items()}
    path.write_text(json.dumps(stored, indent=2) + "\n")
    print(f"Stored in {path}.")
    for name, values in weights.items():
        numbers = ", ".join(f"{value:.4f}" for value in values)
        print(f"{name}: --config.loss.class_weights='({numbers})'")
    return 0


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file(
        "config",
        help_string="Configuration file; --config.x=y changes a field.",
        lock_config=True,
    )
    _OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
    app.run(main)

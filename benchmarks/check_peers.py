"""Compares the logits of every peer with ours, with the same random weights.

  python benchmarks/check_peers.py [names…]

Needs torch and this library in one environment. The peer is compared as it is and with
its batch normalisation folded.
"""

import sys

import jax
import numpy as np
import peers
import torch
from peers import layers, weights

from eseg_jax import models
from eseg_jax.speed.backends import random_variables
from eseg_jax.trees import flatten_names

SIZE, CLASSES, LIMIT = (96, 160), 19, 1e-3


def difference(name, size=SIZE):
    """Largest |difference| of the logits, and largest |logit|."""
    model = models.create(name, CLASSES)
    variables = random_variables(model)
    images = np.random.default_rng(1).normal(size=(1, *size, 3)).astype(np.float32)
    ours = np.asarray(
        jax.jit(lambda v, x: model.apply(v, x, train=False)["logits"])(
            variables, images
        )
    )
    peer = weights.load(peers.create(name, CLASSES), flatten_names(variables)).eval()
    found = []
    with torch.inference_mode():
        x = torch.from_numpy(images.transpose(0, 3, 1, 2))
        for network in (peer, layers.fold(peer)):
            theirs = network(x)["logits"].permute(0, 2, 3, 1).numpy()
            found.append(float(np.abs(ours - theirs).max()))
    return max(found), float(np.abs(ours).max())


def main():
    failed = []
    for name in sys.argv[1:] or peers.names():
        error, largest = difference(name)
        print(f"{name}: {error:.1e} of logits up to {largest:.1f}", flush=True)
        if not error <= LIMIT:
            failed.append(name)
    if failed:
        sys.exit(f"The logits differ by more than {LIMIT}: {', '.join(failed)}.")


if __name__ == "__main__":
    main()

"""Gives a peer the weights of ours. Needs neither jax nor flax."""

import numpy as np
import torch
from torch import nn


def load(model, arrays):
    """Copies arrays {"params/encoder/stem/conv/kernel": …} into a peer, strictly."""
    kinds = dict(model.named_modules())
    left, state = dict(arrays), {}
    for name, value in model.state_dict().items():
        path, _, last = name.rpartition(".")
        collection = "params"
        if isinstance(kinds[path], nn.BatchNorm2d):
            if last == "num_batches_tracked":
                continue
            if last.startswith("running"):
                collection = "batch_stats"
            renamed = {"weight": "scale", "running_mean": "mean", "running_var": "var"}
            last = renamed.get(last, last)
        elif isinstance(kinds[path], nn.Conv2d) and last == "weight":
            last = "kernel"
        array = np.asarray(left.pop("/".join([collection, *path.split("."), last])))
        if last == "kernel" and array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        if array.shape != tuple(value.shape):
            raise ValueError(f"{name} is {tuple(value.shape)}, ours {array.shape}.")
        state[name] = torch.from_numpy(array.copy())
    if left:
        raise ValueError(f"The peer lacks {', '.join(sorted(left))}.")
    model.load_state_dict(state, strict=False)
    return model

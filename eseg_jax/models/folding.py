"""Variables for inference alone: normalisation folded into the convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from eseg_jax.models.layers import BatchNorm


def fold(model: nn.Module, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of the same network without batch statistics.

    `model.apply(fold(model, variables), images, train=False)` has the logits of
    `model.apply(variables, …)` up to rounding, in fewer operations:

    - A batch normalisation becomes a factor of the kernel before it, in float64, and
      that convolution's bias.
    - The weights of ESeg's sums are stored as they are after softmax or division.
    - Heads that only training uses are left out.

    Returns:
      {"params"}: float32 and new where they differ. `train=True` refuses them.
    """
    called: dict[tuple[str, ...], nn.Module] = {}

    def note(call, args, kwargs, context):
        called.setdefault(context.module.path, context.module)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
        jax.eval_shape(lambda x: model.apply(variables, x, train=False), images)

    params = traverse_util.flatten_dict(variables["params"])
    stats = traverse_util.flatten_dict(variables["batch_stats"])
    folded = {name: value for name, value in params.items() if name[:-1] in called}

    def take(name):
        return np.asarray(folded.pop(name, 0), np.float64)

    for path, module in called.items():
        if isinstance(module, BatchNorm):
            kernel, bias = ((*path[:-1], "conv", leaf) for leaf in ("kernel", "bias"))
            mean, variance = (np.asarray(stats[*path, x]) for x in ("mean", "var"))
            factor = take((*path, "scale")) / np.sqrt(
                variance + module.style.bn_epsilon
            )
            shift = take((*path, "bias")) + (take(bias) - mean) * factor
            folded[kernel] = jnp.asarray(take(kernel) * factor, jnp.float32)
            folded[bias] = jnp.asarray(shift, jnp.float32)
        elif hasattr(module, "normalised"):
            weights = folded.pop((*path, "weights"))
            folded[*path, "normalised"] = module.normalised(weights)
    return {"params": traverse_util.unflatten_dict(folded)}

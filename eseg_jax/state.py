"""Everything that training changes, as one plain struct."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from eseg_jax.trees import flatten_names, map_with_names


@flax.struct.dataclass
class TrainState:
    """One instant of a run. Trees map names to float32 arrays; no two share memory.

    Attributes:
      step: optimiser steps done, int32 scalar.
      params: trainable parameters.
      batch_stats: running means and variances of batch normalisation.
      ema_params, ema_batch_stats: their exponential moving averages.
      opt_state: the optimiser's own state.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    ema_params: Any
    ema_batch_stats: Any
    opt_state: Any

    def variables(self, weights: str) -> dict[str, Any]:
        """Model variables: "ema" or "raw" parameters with their statistics."""
        if weights == "ema":
            return {"params": self.ema_params, "batch_stats": self.ema_batch_stats}
        if weights == "raw":
            return {"params": self.params, "batch_stats": self.batch_stats}
        raise ValueError(f"There are no weights {weights!r}; choose ema or raw.")


def init_variables(model, key: jax.Array) -> dict[str, Any]:
    """New "params" and "batch_stats"; they do not depend on the size of the images."""
    images = jnp.zeros((1, 64, 64, 3))
    variables = model.init({"params": key}, images, train=False)
    return {
        "params": variables["params"],
        "batch_stats": variables.get("batch_stats", {}),
    }


def init_state(
    model,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    initial: Mapping[str, Any] | None = None,
) -> TrainState:
    """Initialises a state.

    `initial` {"params", "batch_stats"} has what takes the place of the random start,
    of all names or of some.
    """
    variables = init_variables(model, key)
    if initial:
        given = flatten_names(initial)
        variables = map_with_names(lambda name, x: given.get(name, x), variables)
    params, batch_stats = variables["params"], variables["batch_stats"]
    # Copies: donating a state in which two leaves are one buffer crashes.
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        ema_params=jax.tree.map(jnp.copy, params),
        ema_batch_stats=jax.tree.map(jnp.copy, batch_stats),
        opt_state=optimizer.init(params),
    )

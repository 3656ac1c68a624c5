"""The networks by name: `create`, `create_classifier`, `names`, `info`, `enlarge`."""

from __future__ import annotations

import dataclasses
import difflib

import flax.linen as nn
import jax.numpy as jnp

from eseg_jax.models import dfanet, eseg, frfnet, sfnet
from eseg_jax.models.info import Info
from eseg_jax.ops.resize import resize_bilinear

_FAMILIES = (eseg, dfanet, frfnet, sfnet)


def names() -> tuple[str, ...]:
    """Names of every variant, family by family."""
    return tuple(name for family in _FAMILIES for name in family.VARIANTS)


def variant(name: str):
    """The row of a variant's options. Raises ValueError on unknown names."""
    return _family(name).VARIANTS[name]


def info(name: str) -> Info:
    """What the paper prints about a variant. Raises ValueError on unknown names."""
    return _family(name).INFO[name]


def create(
    name: str,
    num_classes: int,
    dtype: jnp.dtype = jnp.float32,
    *,
    remat: str = "none",
    **overrides,
) -> nn.Module:
    """Builds a network.

    Args:
      name: one of `names()`.
      num_classes: channels of the logits.
      dtype: compute type; parameters, statistics and logits are float32.
      remat: a key of `layers.REMAT`: what blocks compute again for the gradient, to
        save memory.
      **overrides: fields of the variant to change, such as max_level=7.

    Returns:
      A Linen module: `apply(variables, images [n, h, w, 3], train=…)` gives
      {"logits": [n, h / s, w / s, num_classes] float32, "aux": {name: logits}}.

    Raises:
      ValueError: an unknown name or override.
    """
    return _family(name).create(
        _variant(name, overrides), num_classes, dtype=jnp.dtype(dtype), remat=remat
    )


def create_classifier(
    name: str,
    num_classes: int,
    dtype: jnp.dtype = jnp.float32,
    *,
    remat: str = "none",
    **overrides,
) -> nn.Module:
    """Builds the classifier that a network's backbone is pre-trained in.

    Arguments and errors are those of `create`. The backbone's parameters have the
    names that they have in the network, so that they need no conversion.

    Returns:
      A Linen module: `apply(variables, images [n, h, w, 3], train=…)` gives
      {"logits": [n, num_classes] float32, "aux": {}}.
    """
    return _family(name).create_classifier(
        _variant(name, overrides), num_classes, dtype=jnp.dtype(dtype), remat=remat
    )


def _variant(name: str, overrides: dict):
    base = variant(name)
    fields = [field.name for field in dataclasses.fields(base)]
    unknown = sorted(set(overrides) - set(fields))
    if unknown:
        raise ValueError(
            f"{name} has no option {', '.join(unknown)}; "
            f"its options are {', '.join(fields)}."
        )
    return dataclasses.replace(base, **overrides)


def enlarge(model: nn.Module):
    """The function (logits, (h, w)) -> logits that a network's predictions stand for.

    Bilinear with half-pixel centres, but for networks whose authors align corners.
    """
    return getattr(model, "enlarge", resize_bilinear)


def _family(name: str):
    for family in _FAMILIES:
        if name in family.VARIANTS:
            return family
    close = difflib.get_close_matches(name, names(), n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "see names()."
    raise ValueError(f"There is no model {name!r}; {hint}")

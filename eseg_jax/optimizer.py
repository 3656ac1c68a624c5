"""Config -> optax chain and learning-rate schedule.

Parameters are chosen by regular expressions that must match the whole name, e.g.
"encoder/.*" or ".*/kernel"; one that matches no parameter is an error.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eseg_jax.trees import flatten_names, map_with_names


def make_schedule(cfg: Any, total_steps: int) -> optax.Schedule:
    """The learning rate of each step, float32.

    Linear warm-up from warmup_factor * learning_rate to learning_rate over
    warmup_steps, then with t from 0 there to 1 at total_steps

        cosine    final + (peak - final) * (1 + cos(pi * t)) / 2
        poly      final + (peak - final) * (1 - t) ** poly_power
        steps     final + (peak - final) * step_factor ** (number of step_at <= t)
        constant  peak

    t is shifted by the warm-up, so the decay ends at total_steps. EfficientDet, which
    ESeg follows, does not shift it and ends warmup_steps early (ESeg §7).

    Args:
      cfg: learning_rate, schedule, final_learning_rate, poly_power, step_at, a tuple
        of t, step_factor, warmup_steps, warmup_factor.
      total_steps: of the whole run.
    """
    peak, final, warmup = cfg.learning_rate, cfg.final_learning_rate, cfg.warmup_steps
    decays = {
        "cosine": lambda t: (1 + jnp.cos(jnp.pi * t)) / 2,
        "poly": lambda t: (1 - t) ** cfg.poly_power,
        "steps": lambda t: cfg.step_factor ** sum(t >= at for at in cfg.step_at),
        "constant": jnp.ones_like,
    }
    decay = decays[_known("schedule", cfg.schedule, decays)]

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        t = jnp.clip((step - warmup) / max(total_steps - warmup, 1), 0, 1)
        decayed = final + (peak - final) * decay(t)
        ramp = cfg.warmup_factor + (1 - cfg.warmup_factor) * step / max(warmup, 1)
        return jnp.where(step < warmup, peak * ramp, decayed)

    return schedule


def make_optimizer(cfg: Any, total_steps: int) -> optax.GradientTransformation:
    """The update of the parameters, in this order:

    1. weight decay, coupled: weight_decay * p is added to the gradient of the
       parameters that weight_decay_on matches. It is the derivative of a term of the
       loss (ESeg §7), so the clipping and the momentum see it;
    2. clipping to the global norm clip_norm (0 = off);
    3. SGD momentum or Adam, its moments in float32;
    4. times minus the learning rate of the step;
    5. times the factor of the first of `multipliers` that matches the name.

    Parameters that `frozen` matches are left out of all of it, of the global norm and
    the optimizer's state as well; their update is 0.

    Args:
      cfg: name "sgd" (momentum, nesterov) or "adam" (b1, b2), clip_norm,
        weight_decay, weight_decay_on, frozen ("" = none), multipliers (pairs of
        regular expression and factor), and the fields of `make_schedule`.
      total_steps: of the whole run.

    Returns:
      A transformation whose `update` needs the parameters. Its `init` raises
      ValueError for a regular expression that matches none of them.
    """
    moments = {
        "sgd": lambda: optax.trace(
            cfg.momentum, cfg.nesterov, accumulator_dtype=jnp.float32
        ),
        "adam": lambda: optax.scale_by_adam(cfg.b1, cfg.b2, mu_dtype=jnp.float32),
    }
    patterns = {}
    stages = []
    if cfg.weight_decay:
        patterns["weight_decay_on"] = cfg.weight_decay_on
        decayed = _matches(cfg.weight_decay_on)
        stages.append(optax.add_decayed_weights(cfg.weight_decay, mask=decayed))
    if cfg.clip_norm:
        stages.append(optax.clip_by_global_norm(cfg.clip_norm))
    stages.append(moments[_known("name", cfg.name, moments)]())
    stages.append(optax.scale_by_learning_rate(make_schedule(cfg, total_steps)))
    if cfg.multipliers:
        for i, (pattern, _) in enumerate(cfg.multipliers):
            patterns[f"multipliers[{i}]"] = pattern
        stages.append(_scale_by_name(cfg.multipliers))
    optimizer = optax.chain(*stages)
    if cfg.frozen:
        patterns["frozen"] = cfg.frozen
        is_frozen = _matches(cfg.frozen)
        optimizer = optax.partition(
            {"trained": optimizer, "frozen": optax.set_to_zero()},
            lambda params: jax.tree.map(
                lambda frozen: "frozen" if frozen else "trained", is_frozen(params)
            ),
        )

    def init(params):
        _check_patterns(patterns, list(flatten_names(params)))
        return optimizer.init(params)

    return optax.GradientTransformation(init, optimizer.update)


def _matches(pattern: str) -> Callable[[Any], Any]:
    """tree -> tree of bool: whether the leaf's name matches."""
    return lambda tree: map_with_names(
        lambda name, _: re.fullmatch(pattern, name) is not None, tree
    )


def _scale_by_name(
    multipliers: tuple[tuple[str, float], ...],
) -> optax.GradientTransformation:
    def scale(name, update):
        for pattern, factor in multipliers:
            if re.fullmatch(pattern, name):
                return update * factor
        return update

    return optax.stateless(lambda updates, _: map_with_names(scale, updates))


def _check_patterns(patterns: dict[str, str], names: list[str]) -> None:
    for field, pattern in patterns.items():
        try:
            found = any(re.fullmatch(pattern, name) for name in names)
        except re.error as error:
            raise ValueError(
                f"optimizer.{field}: {pattern!r} is not a regular expression ({error})."
            ) from error
        if not found:
            some = ", ".join(repr(name) for name in names[:: max(1, len(names) // 5)])
            raise ValueError(
                f"optimizer.{field}: {pattern!r} matches no parameter; it must match "
                f"the whole of a name such as {some}."
            )


def _known(field: str, value: str, options: dict[str, Any]) -> str:
    if value not in options:
        raise ValueError(
            f"optimizer.{field} is {value!r}; it must be one of {sorted(options)}."
        )
    return value

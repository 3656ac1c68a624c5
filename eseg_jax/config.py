"""Checks a configuration as a whole before anything is built from it."""

from __future__ import annotations

import re

from ml_collections import ConfigDict


class ConfigError(ValueError):
    """Every mistake of a configuration in one message."""


def validate(config: ConfigDict) -> None:
    """Raises ConfigError naming each field that is wrong and how to mend it."""
    problems = []

    def check(ok: bool, field: str, value, rule: str) -> None:
        if not ok:
            problems.append(f"config.{field} = {value!r}: {rule}")

    for field in (
        "total_steps",
        "accumulate_steps",
        "log_every",
        "eval_every",
        "checkpoint_every",
        "keep_checkpoints",
    ):
        check(config[field] >= 1, field, config[field], "must be at least 1")
    check(
        config.dtype in ("auto", "bfloat16", "float32"),
        "dtype",
        config.dtype,
        "must be auto, bfloat16 or float32",
    )
    check(
        config.remat in ("none", "convolutions", "blocks"),
        "remat",
        config.remat,
        "must be none, convolutions or blocks",
    )
    for field in ("skip_nonfinite", "stuck_after"):
        check(config[field] >= 0, field, config[field], "must not be negative")
    first, _, end = config.profile.partition(":")
    check(
        not config.profile
        or (first + end).isdecimal()
        and int(first or -1) < int(end or -1) <= config.total_steps,
        "profile",
        config.profile,
        'must be "" or FIRST:END, such as "10:20", with END at most total_steps',
    )
    data, spatial = config.mesh.data, config.mesh.spatial
    check(
        data >= 1 or data == -1,
        "mesh.data",
        data,
        "must be a number of devices, or -1 for all that are left",
    )
    check(spatial >= 1, "mesh.spatial", spatial, "must be a number of devices")
    for rule in config.sharding_rules:
        try:
            expression, axes = rule
            re.compile(expression)
            good = {*axes} <= {"data", "spatial", None} and not isinstance(axes, str)
        except (TypeError, ValueError, re.error):
            good = False
        check(
            good,
            "sharding_rules",
            rule,
            'must be (regular expression, axes), such as ("classifier/kernel", '
            '("data",))',
        )
    check(
        0 <= config.ema_decay < 1, "ema_decay", config.ema_decay, "must lie in [0, 1)"
    )

    check(
        config.init_part in ("all", "backbone", "all_but_classifier"),
        "init_part",
        config.init_part,
        "must be all, backbone or all_but_classifier",
    )

    data = config.input
    check(
        data.batch_size >= 1, "input.batch_size", data.batch_size, "must be at least 1"
    )
    check(
        data.batch_size % config.accumulate_steps == 0,
        "accumulate_steps",
        config.accumulate_steps,
        f"must divide input.batch_size = {data.batch_size}",
    )
    # The command line joins a pair that is given twice to four numbers.
    for field, ok, rule in (
        ("crop", lambda x: min(x) >= 1, "(h, w) in pixels"),
        ("scale", lambda x: 0 < x[0] <= x[1], "(low, high), 0 < low <= high"),
        ("blur", lambda x: 0 <= x[0] <= x[1], "(low, high), 0 <= low <= high"),
    ):
        value = data[field]
        good = len(value) == 2 and ok(value)
        check(good, f"input.{field}", value, f"must be one pair {rule}")
    check(
        data.scale_step >= 0,
        "input.scale_step",
        data.scale_step,
        "must be 0 (any scale) or positive",
    )
    check(
        0 <= data.class_uniform <= 1,
        "input.class_uniform",
        data.class_uniform,
        "is a share of the crops in [0, 1]",
    )
    check(
        not data.class_uniform or bool(data.centroids),
        "input.centroids",
        data.centroids,
        "class_uniform needs a file of python -m eseg_jax.tools.class_centroids",
    )
    check(
        0 < data.pseudo_fraction < 1,
        "input.pseudo_fraction",
        data.pseudo_fraction,
        "is a share of the batch between 0 and 1",
    )
    check(
        0 <= data.pseudo_threshold < 1,
        "input.pseudo_threshold",
        data.pseudo_threshold,
        "is a probability below 1",
    )
    check(data.cache_gb >= 0, "input.cache_gb", data.cache_gb, "must not be negative")

    optimizer = config.optimizer
    check(
        optimizer.learning_rate > 0,
        "optimizer.learning_rate",
        optimizer.learning_rate,
        "must be positive",
    )
    check(
        0 <= optimizer.warmup_steps <= config.total_steps,
        "optimizer.warmup_steps",
        optimizer.warmup_steps,
        f"must lie between 0 and total_steps = {config.total_steps}",
    )
    check(
        all(0 < at < 1 for at in optimizer.step_at),
        "optimizer.step_at",
        optimizer.step_at,
        "must be shares of the run between 0 and 1",
    )
    for field in ("weight_decay_on", "frozen"):
        try:
            re.compile(optimizer[field])
        except re.error as error:
            check(
                False,
                f"optimizer.{field}",
                optimizer[field],
                f"is no regular expression ({error})",
            )

    loss = config.loss
    check(
        0 <= loss.ohem_threshold <= 1,
        "loss.ohem_threshold",
        loss.ohem_threshold,
        "is a probability",
    )
    check(
        0 < loss.ohem_min_kept_fraction <= 1,
        "loss.ohem_min_kept_fraction",
        loss.ohem_min_kept_fraction,
        "is a share of the pixels in (0, 1]",
    )
    check(
        loss.ohem_rule in ("hrnet", "sfnet"),
        "loss.ohem_rule",
        loss.ohem_rule,
        "must be hrnet or sfnet",
    )
    check(
        config.eval.batch_size >= 1,
        "eval.batch_size",
        config.eval.batch_size,
        "must be at least 1",
    )
    check(
        config.eval.weights in ("ema", "raw"),
        "eval.weights",
        config.eval.weights,
        "must be ema or raw",
    )
    for field, ok, rule in (
        (
            "scales",
            lambda x: x and min(x) > 0,
            "must be positive factors, at least one",
        ),
        (
            "average",
            lambda x: x in ("probabilities", "logits"),
            "must be probabilities or logits",
        ),
        (
            "window",
            lambda x: len(x) in (0, 2) and all(side > 0 for side in x),
            "must be (h, w) in pixels, or () for whole images",
        ),
        ("boundary", lambda x: all(t > 0 for t in x), "must be positive thresholds"),
        ("overlap", lambda x: 0 <= x < 1, "is a share of the window in [0, 1)"),
        (
            "size",
            lambda x: len(x) <= 2 and all(side > 0 for side in x),
            "must be (h, w), (short side,) or () for images as they are",
        ),
    ):
        value = config.eval[field]
        check(ok(value), f"eval.{field}", value, rule)
    for field, ok, rule in (
        ("scales", lambda x: x and min(x) > 0, "must be positive factors"),
        ("threshold", lambda x: 0 <= x <= 1, "is a probability"),
        (
            "class_thresholds",
            lambda x: all(0 <= each <= 1 for each in x),
            "must be probabilities, one a class, or ()",
        ),
        ("top_fraction", lambda x: 0 < x <= 1, "is a share of the pixels in (0, 1]"),
        ("batch_size", lambda x: x >= 1, "must be at least 1"),
        ("size_step", lambda x: x >= 0, "must not be negative"),
        ("shard_images", lambda x: x >= 0, "must not be negative"),
    ):
        value = config.pseudo[field]
        check(ok(value), f"pseudo.{field}", value, rule)
    if problems:
        raise ConfigError(
            f"The configuration has {len(problems)} mistake"
            f"{'s' if len(problems) > 1 else ''}:\n  " + "\n  ".join(problems)
        )

"""What a configuration takes on TPU slices: memory, time, hours; without a TPU.

  python -m eseg_jax.tools.plan --config=configs/eseg_s.py --topology=v5e:2x4 \
      --topology=v6e:2x4 [--mode=train|evaluate|pseudo_label] [--config.…=…]
  python -m eseg_jax.tools.plan --config=configs/eseg_l.py --topology=v5e:2x4 \
      --sweep=input.batch_size=16,32 --sweep=remat=none,convolutions,blocks

Compiles the step that the mode would run for each slice, ahead of time, which takes
minutes (`pip install libtpu`, Linux on x86). Prints what came out and writes it to
OUT.json and OUT.html. A sweep compiles every combination and names the fastest that
fits.

No time is measured. A step's seconds are the sum over the program's instructions of the
compiler's own cycles over the clock, or of the time that their bytes of HBM take where
that is longer; loops count as often as they run. Not in it: waiting for copies that the
compiler lets run beside the compute, input, evaluation and checkpoints.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
import sys

import jax
from absl import app, flags
from etils import epath
from ml_collections import ConfigDict, config_flags

from eseg_jax import planning
from eseg_jax.planning import PlanError
from eseg_jax.report import plan as plan_page
from eseg_jax.report.files import write_text

_CITYSCAPES = (1024, 2048)


def combinations(sweep: list[str]) -> list[dict[str, str]]:
    """["a=1,2", "b=x"] -> [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]."""
    axes = []
    for text in sweep:
        field, equals, values = text.partition("=")
        if not equals or not values:
            raise PlanError(f"--sweep={text} must be FIELD=VALUE,VALUE,….")
        axes.append([(field.removeprefix("config."), x) for x in values.split(",")])
    return [dict(each) for each in itertools.product(*axes)]


def with_fields(config: ConfigDict, fields: dict[str, str]) -> ConfigDict:
    """The configuration with other values, read as JSON or else as text."""
    config = copy.deepcopy(config)
    for field, text in fields.items():
        try:
            value = json.loads(text.lower())
        except json.JSONDecodeError:
            value = text
        try:
            config.update_from_flattened_dict({field: value})
        except (KeyError, AttributeError, TypeError) as error:
            raise PlanError(f"--sweep={field}={text} fails: {error}.") from error
    return config


def _size(text: str | None) -> tuple[int, int] | None:
    if text and not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
        raise PlanError(f"--size={text} must be HxW in pixels, such as 1024x2048.")
    return tuple(map(int, text.split("x"))) if text else None


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; all are --flag=value.")
    jax.config.update("jax_platforms", "cpu")
    config, mode, records = _CONFIG.value, _MODE.value, []
    out = epath.Path(_OUT.value)
    command = "python -m eseg_jax.tools.plan " + " ".join(sys.argv[1:])
    try:
        size = _size(_SIZE.value) or tuple(config.dataset.get("size", _CITYSCAPES))
        variants = combinations(_SWEEP.value)
        for topology, fields in itertools.product(_TOPOLOGY.value, variants):
            varied = with_fields(config, fields)
            try:
                record = planning.plan(varied, mode, topology, size)
            except ValueError as error:
                if not fields or isinstance(error, PlanError):
                    raise
                record = {"topology": topology, "refused": str(error)}
            records.append(record | {"fields": fields})
            print(plan_page.text(records[-1]), flush=True)
            # After each, for compiling takes long.
            write_text(out.with_suffix(".json"), json.dumps(records, indent=1) + "\n")
            page = plan_page.page(records, planning.fastest(records), command)
            write_text(out.with_suffix(".html"), page)
    except ValueError as error:
        print(f"eseg_jax: {error}", file=sys.stderr)
        return 2
    best = planning.fastest(records)
    if len(records) > 1 and best:
        print(f"Fastest that fits: {plan_page.title(best)}")
    print(f"Written to {out.with_suffix('.json')} and {out.with_suffix('.html')}.")
    return 0 if best else 1


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file(
        "config",
        help_string="Configuration file; --config.x=y changes a field.",
        lock_config=True,
    )
    _TOPOLOGY = flags.DEFINE_multi_string(
        "topology", ["v5e:2x4"], "Slice to compile for; can be given several times."
    )
    _MODE = flags.DEFINE_enum("mode", "train", planning.MODES, "Whose step to compile.")
    _SIZE = flags.DEFINE_string(
        "size", None, "HxW of the images to evaluate or label; 1024x2048 by default."
    )
    _SWEEP = flags.DEFINE_multi_string(
        "sweep", [], "FIELD=VALUE,VALUE,… of the configuration; several are combined."
    )
    _OUT = flags.DEFINE_string("out", "plan", "Writes OUT.json and OUT.html.")
    flags.mark_flag_as_required("config")
    app.run(main)

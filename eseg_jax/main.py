"""The command line: python -m eseg_jax.main --config=FILE.py --workdir=DIR."""

from __future__ import annotations

import logging
import os
import sys

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from eseg_jax import job

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="Configuration file; --config.x=y changes a field.",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: a local path or a bucket such as gs://…"
)
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "evaluate", "pseudo_label"], "What to do."
)
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    ["auto", "on", "off"],
    "Whether to join the other processes of the job; auto does so where the "
    "environment (TPU slice, SLURM, JAX_COORDINATOR_ADDRESS) says there are some.",
)


def main(argv: list[str]) -> None:
    """Joins the job, then trains, evaluates or labels images."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; all are --flag=value.")
    job.keep_memory()
    job.join(_DISTRIBUTED.value)
    job.check_writable(_WORKDIR.value)
    config = _CONFIG.value
    job.keep_compiled(config.compilation_cache, _WORKDIR.value)
    # Imported here so that --help and a typo in a flag answer at once.
    from eseg_jax.evaluate import evaluate
    from eseg_jax.pseudo_label import pseudo_label
    from eseg_jax.train import train

    modes = {"train": train, "evaluate": evaluate, "pseudo_label": pseudo_label}
    modes[_MODE.value](config, _WORKDIR.value)


def _parse_flags(argv: list[str]) -> list[str]:
    """Reads the flags; a field that the configuration lacks is named, not traced."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, TypeError) as error:
        reason = " ".join(str(error.args[0]).split())
        sys.exit(f"eseg_jax: a --config.… flag is wrong: {reason}")


def run() -> None:
    """Entry point that shows the user's mistakes as one sentence, not a traceback."""
    flags.mark_flags_as_required(["config", "workdir"])
    # Ours, and of the libraries only what is wrong.
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.getLogger("eseg_jax").setLevel(logging.INFO)
    known = (ValueError, OSError, FloatingPointError, jax.errors.JaxRuntimeError)
    try:
        app.run(main, flags_parser=_parse_flags)
    except known as error:
        if os.environ.get("ESEG_JAX_TRACEBACK"):
            raise
        if job.lost_another(error):
            job.leave_the_lost(error)
        if isinstance(error, jax.errors.JaxRuntimeError):
            raise  # out of memory, for one: the traceback says where
        sys.exit(f"eseg_jax: {error}\n(ESEG_JAX_TRACEBACK=1 shows where.)")


if __name__ == "__main__":
    run()

"""The command line: python -m eseg_jax.main --config=FILE.py --workdir=DIR."""

from __future__ import annotations

import logging
import os
import sys

import jax
from absl import app, flags
from absl import logging as absl_logging
from etils import epath
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="Configuration file; --config.x=y changes a field.",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: a local path or a bucket such as gs://…"
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    ["auto", "on", "off"],
    "Whether to join the other processes of the job; auto does so where the "
    "environment (TPU slice, SLURM, JAX_COORDINATOR_ADDRESS) says there are some.",
)

_HEARTBEAT_SECONDS = 30


def main(argv: list[str]) -> None:
    """Joins the job, then trains or evaluates."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; all are --flag=value.")
    _join_processes(_DISTRIBUTED.value)
    _check_writable(_WORKDIR.value)
    config = _CONFIG.value
    _keep_compiled(config.compilation_cache, _WORKDIR.value)
    # Imported here so that --help and a typo in a flag answer at once.
    from eseg_jax.evaluate import evaluate
    from eseg_jax.train import train

    {"train": train, "evaluate": evaluate}[_MODE.value](config, _WORKDIR.value)


def _join_processes(when: str) -> None:
    """Runs jax.distributed.initialize(), before any other use of JAX."""
    env = os.environ
    explicit = {
        "coordinator_address": env.get("JAX_COORDINATOR_ADDRESS"),
        "num_processes": env.get("JAX_NUM_PROCESSES"),
        "process_id": env.get("JAX_PROCESS_ID"),
    }
    several = (
        explicit["coordinator_address"]
        or "," in env.get("TPU_WORKER_HOSTNAMES", "")
        or int(env.get("SLURM_NTASKS", "1")) > 1
    )
    if when == "on" or (when == "auto" and several):
        jax.distributed.initialize(
            coordinator_address=explicit["coordinator_address"],
            # The others stop this long after a process or its host is lost.
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            **{
                name: int(explicit[name])
                for name in ("num_processes", "process_id")
                if explicit[name] is not None
            },
        )


def _check_writable(workdir: str) -> None:
    """Stops before any work is done when results could not be kept."""
    path = epath.Path(workdir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable_{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"The workdir {workdir} cannot be written ({error}); choose another "
            "--workdir or mend its permissions."
        ) from error


def _keep_compiled(where: str, workdir: str) -> None:
    """Lets a second start of the same program find it compiled."""
    if where == "auto":
        where = os.environ.get("JAX_COMPILATION_CACHE_DIR")
        where = where or os.path.join(workdir, "compilation_cache")
    jax.config.update("jax_compilation_cache_dir", where or None)


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
        alone = not jax.distributed.is_initialized()
        lost = isinstance(error, jax.errors.JaxRuntimeError)
        if os.environ.get("ESEG_JAX_TRACEBACK") or (lost and alone):
            raise
        if lost:
            reason = str(error).splitlines()[0][:300]
            error = (
                "this process stops because another of the job, or the network to it, "
                f"is gone ({reason}). Start all processes again, or fewer or more of "
                "them, with the same command: the run resumes from its last checkpoint."
            )
        sys.exit(f"eseg_jax: {error}\n(ESEG_JAX_TRACEBACK=1 shows where.)")


if __name__ == "__main__":
    run()

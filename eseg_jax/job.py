"""What a process does around its work: join the others and wait for them, check the
workdir, keep compiled programs, and leave when another process is gone."""

from __future__ import annotations

import ctypes
import os
import re
import sys

import jax
import orbax.checkpoint as ocp
from etils import epath

_HEARTBEAT_SECONDS = 30
_WAIT_SECONDS = 3600
# malloc.h: M_ARENA_MAX, one heap for all threads; M_MMAP_MAX, no maps of their own for
# large arrays; M_TRIM_THRESHOLD, nothing is handed back.
_MALLOC = {-8: 1, -4: 0, -1: -1}


def join(when: str) -> None:
    """Runs jax.distributed.initialize(), before any other use of JAX.

    Args:
      when: "on", "off", or "auto" for where the environment speaks of several
        processes: a TPU slice, SLURM, JAX_COORDINATOR_ADDRESS.
    """
    env = os.environ
    address = env.get("JAX_COORDINATOR_ADDRESS")
    numbers = {
        "num_processes": env.get("JAX_NUM_PROCESSES"),
        "process_id": env.get("JAX_PROCESS_ID"),
    }
    several = (
        address
        or "," in env.get("TPU_WORKER_HOSTNAMES", "")
        or int(env.get("SLURM_NTASKS", "1")) > 1
    )
    if when == "on" or (when == "auto" and several):
        jax.distributed.initialize(
            coordinator_address=address,
            # The others stop this long after a process or its host is lost.
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            **{name: int(text) for name, text in numbers.items() if text is not None},
        )


def wait_for_processes(name: str) -> None:
    """Returns once every process has come here; `name` is unique to the place.

    They meet at the coordinator, not on the devices: collectives on CPUs give up on a
    process that comes half a minute late, as one does that compiles for longer.

    Raises:
      jax.errors.JaxRuntimeError: one is gone, or has not come within an hour.
    """
    barrier = ocp.multihost.get_barrier_sync_fn()
    barrier(key=name, timeout_ms=_WAIT_SECONDS * 1000)


def keep_memory() -> None:
    """Keeps freed memory in the process instead of handing it back to the system.

    On Linux the C library unmaps every large array when it is freed, and the next
    one pays for fresh pages: up to a third of the time of training on a CPU. The
    process stays at its peak size instead. Call it before the first array.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version"):
        for option, value in _MALLOC.items():
            libc.mallopt(option, value)


def check_writable(workdir: str) -> None:
    """Stops before any work is done when results could not be kept."""
    path = epath.Path(workdir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable_{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except Exception as error:  # buckets raise their client library's own types
        raise ValueError(
            f"The workdir {workdir} cannot be written ({error}); choose another "
            "--workdir or mend its permissions."
        ) from error


def keep_compiled(where: str, workdir: str) -> None:
    """Lets a second start of the same program find it compiled.

    Args:
      where: config.compilation_cache: "auto", a folder or bucket, or "" for nowhere.
      workdir: of the run; "auto" without JAX_COMPILATION_CACHE_DIR keeps them there.
    """
    if where == "auto":
        where = os.environ.get("JAX_COMPILATION_CACHE_DIR")
        where = where or os.path.join(workdir, "compilation_cache")
    jax.config.update("jax_compilation_cache_dir", where or None)


def lost_another(error: Exception) -> bool:
    """Whether an error means that another process of the job, or its host, is gone."""
    # XLA's: raised as a JaxRuntimeError or, when something is fetched, a ValueError.
    status = isinstance(error, jax.errors.JaxRuntimeError) or re.match(
        "[A-Z_]+: ", str(error)
    )
    return jax.distributed.is_initialized() and bool(status)


def leave_the_lost(error: Exception) -> None:
    """Ends this process and says why; it does not return."""
    reason = str(error).splitlines()[0][:300]
    print(
        "eseg_jax: this process stops because another of the job, or the network to "
        f"it, is gone ({reason}). Start all processes again, or fewer or more of them, "
        "with the same command: the run resumes from its last checkpoint.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)  # a tidy exit would wait for the one that is gone

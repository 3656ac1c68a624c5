"""Times calls of two libraries in processes that take turns.

Neither library disturbs the other, and a busy machine slows both.
"""

import json
import os
import pathlib
import subprocess
import sys
import time


def start(script, python, library, keep_pages):
    """A process of the script, which answers with `work` when it sees --worker."""
    keep = {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(2**40),
    }
    script = os.path.abspath(script)
    return subprocess.Popen(
        [python, script, f"--worker={library}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            **(keep if keep_pages else {}),
            "PYTHONPATH": os.path.dirname(os.path.dirname(script)),
            "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
        },
    )


def stop(workers):
    for worker in workers:
        worker.stdin.close()
        worker.wait()


def work(make, timed=None):
    """Answers each case on stdin with {name: [milliseconds, …]}, one for each call.

    Args:
      make: case -> {name: (call, …)}, functions of nothing, such as forward and
        forward and backward.
      timed: call -> milliseconds; None is the fastest of a few.
    """
    timed = timed or _fastest
    current, calls = None, {}
    for line in sys.stdin:
        if line != current:
            current, calls = line, make(json.loads(line))
        times = {name: [timed(call) for call in calls[name]] for name in calls}
        print(json.dumps(times), flush=True)


def work_as(backend, make, timed):
    """`work` with make(backend, case); "jax" keeps its memory as a run of ours does."""
    if backend == "jax":
        from eseg_jax.job import keep_memory

        keep_memory()
    work(lambda case: make(backend, case), timed)


def _fastest(call):
    """Milliseconds: the fastest of a few calls, after one that finds its memory.

    At least three, and as many as it takes to spend 50 ms in them: the fastest of three
    calls of a millisecond is still an accident.
    """
    call()
    times = []
    while len(times) < 3 or sum(times) < 50:
        start = time.perf_counter()
        result = call()
        times.append((time.perf_counter() - start) * 1e3)
        del result  # outside the clock: freeing is no part of the call
    return min(times)


def two_clocks(call, most):
    """Times up to `most` calls, one at least, while half a second lasts.

    Returns:
      [by the clock, of the processor] in milliseconds, all its threads together: the
      least of each; and what the last call returned.
    """
    begun, found = time.perf_counter(), []
    while not found or (len(found) < most and time.perf_counter() - begun < 0.5):
        start = time.perf_counter(), time.process_time()
        result = call()
        end = time.perf_counter(), time.process_time()
        found.append([1e3 * (b - a) for a, b in zip(start, end, strict=True)])
    return [min(column) for column in zip(*found, strict=True)], result


def measure(workers, case, rounds):
    """{name: [[milliseconds, …], …]}: what each round measured of each call."""
    times = {}
    for _ in range(rounds + 1):
        for worker in workers:
            worker.stdin.write(json.dumps(case) + "\n")
            worker.stdin.flush()
            for name, pair in json.loads(worker.stdout.readline()).items():
                times.setdefault(name, []).append(pair)
    return {name: pairs[1:] for name, pairs in times.items()}  # the first warms up


def keep(file, row, same):
    """Adds a row to a JSON file, in place of one with the same values under `same`."""
    file = pathlib.Path(file)
    rows = json.loads(file.read_text()) if file.exists() else []
    rows = [old for old in rows if any(old[key] != row[key] for key in same)]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([*rows, row], indent=1) + "\n")

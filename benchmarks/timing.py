"""Times calls of two libraries in processes that take turns.

Neither library disturbs the other, and a busy machine slows both.
"""

import json
import os
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
      timed: call -> milliseconds; None is the fastest of three.
    """
    timed = timed or _fastest
    current, calls = None, {}
    for line in sys.stdin:
        if line != current:
            current, calls = line, make(json.loads(line))
        times = {name: [timed(call) for call in calls[name]] for name in calls}
        print(json.dumps(times), flush=True)


def _fastest(call):
    """Milliseconds: the fastest of three calls, after one that finds its memory."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        result = call()
        times.append((time.perf_counter() - start) * 1e3)
        del result  # outside the clock: freeing is no part of the call
    return min(times[1:])


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

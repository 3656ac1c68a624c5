"""Training is the same on any mesh: batches split, images split, over processes."""

import collections
import json
import os
import pathlib
import subprocess
import sys

import jax
import jobs
import mesh_worker
import numpy as np
import pytest

from eseg_jax import models, sharding

TINY = {"width": 0.1, "depth": 0.1, "features": 8, "max_level": 5, "drop_rate": 0.2}
HALVES = {"data": 2, "spatial": 2}
# Gradients of statistics over a few pixels differ by 1e-5 from data=1 to data=4 in
# float32, the losses by 7e-8. A sum that counts a device twice, or leaves out a row, is
# off by tenths.
TOLERANCE = 1e-4


def differences(found, wanted):
    """The largest difference of each kind of number, relative to its array's largest.

    An array whose largest number is a hundredth of its kind's counts as that large:
    the gradient of a bias before batch normalisation is rounding and nothing else.
    """
    kinds = collections.defaultdict(dict)
    for name, x in wanted.items():
        step, kind, *rest = name.split("/")
        if kind == "state" and rest[0] in ("params", "batch_stats", "opt_state"):
            # The momentum of the first step is its gradient, clipped and decayed.
            kinds[f"{rest[0]} after {int(step) + 1}"][name] = x
        elif kind in ("loss", "grad_norm"):
            kinds[kind][name] = x
    result = {}
    for kind, leaves in kinds.items():
        least = max(np.abs(x).max() for x in leaves.values()) / 100
        result[kind] = max(
            float(np.abs(found[name] - x).max() / max(np.abs(x).max(), least))
            for name, x in leaves.items()
        )
    return result


def test_batches_split():
    task = {"name": "eseg_lite_s", "size": (34, 26), "options": TINY, "count": 2}
    wanted, _ = mesh_worker.run(**task, mesh={"data": 1}, devices=1)
    found, hlo = mesh_worker.run(**task, mesh={"data": 4})
    assert max(differences(found, wanted).values()) < TOLERANCE
    assert mesh_worker.collectives(hlo)[0].keys() == {"all-reduce"}


@pytest.mark.slow
@pytest.mark.parametrize("size", [(66, 50), (34, 26)])
def test_images_split(size):
    task = {"name": "eseg_lite_s", "size": size, "options": TINY, "count": 2}
    wanted, _ = mesh_worker.run(**task, mesh={"data": 1}, devices=1)
    found, hlo = mesh_worker.run(**task, mesh=HALVES)
    assert max(differences(found, wanted).values()) < TOLERANCE
    assert mesh_worker.collectives(hlo)[0]["collective-permute"] > 0  # the seams


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gathers"),
    # Of SFNet: resizing with aligned corners and the warp, which looks anywhere.
    [("eseg_lite_s", 0), ("sfnet_df1", 7), ("frfnet_slim", 0), ("dfanet_b", 0)],
)
def test_split_images_are_not_gathered(name, gathers, as_on_an_accelerator):
    mesh = sharding.make_mesh(HALVES, jax.devices()[:4])
    batch = mesh_worker.data(0, 4, (512, 512))
    _, step = mesh_worker.compile_step(models.create(name, 5), batch, mesh)
    counts, _ = mesh_worker.collectives(step.as_text())
    print(name, dict(counts))
    assert counts["all-gather"] == gathers


# ---- All four networks on every mesh, in float64 -----------------------------------

MESHES = {
    "data=4": {"mesh": {"data": 4}},
    "data=2, spatial=2": {"mesh": HALVES},
    "data=4, kernels sharded": {"mesh": {"data": 4}, "rules": [[".*kernel", ["data"]]]},
    "2 processes of 2 devices": {"mesh": HALVES, "processes": 2},
}


def _work(out, task, devices=4, processes=1):
    """What `mesh_worker.run` finds in processes of their own, and the collectives."""
    port, tests = jobs.free_port(), pathlib.Path(__file__).parent
    env = dict(
        os.environ,
        JAX_PLATFORMS="cpu",
        JAX_NUM_CPU_DEVICES=str(devices // processes),
        JAX_DISABLE_MOST_OPTIMIZATIONS="1",
        PYTHONPATH=os.pathsep.join([str(tests), str(tests.parent)]),
    )
    if processes > 1:
        env |= {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": str(processes),
        }
    workers = [
        subprocess.Popen(
            [sys.executable, mesh_worker.__file__, str(out), json.dumps(task)],
            env=env | {"JAX_PROCESS_ID": str(index)} if processes > 1 else env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(processes)
    ]
    codes, logs = jobs.finish(*workers, seconds=3600)
    assert codes == [0] * processes, "\n".join(logs)
    found = dict(np.load(out))
    return found, json.loads(str(found.pop("collectives")))


# DFANet's last maps are at a 128th of the image, and its three sub-networks in a row
# turn a difference of 1e-14 into 3e-12 in a gradient, and by steps of the usual length
# into 1e-3 after four.
@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("name", "size", "slow"),
    [
        *(("eseg_lite_s", size, 1) for size in ((64, 64), (66, 50))),
        *(("sfnet_df1", size, 1) for size in ((64, 64), (66, 50))),
        *(("frfnet_slim", size, 1) for size in ((64, 64), (66, 50))),
        *(("dfanet_b", size, 1e-3) for size in ((256, 256), (258, 194))),
    ],
)
def test_every_mesh(name, size, slow, tmp_path):
    task, out = {"name": name, "size": size, "slow": slow}, tmp_path / "found.npz"
    wanted, _ = _work(out, task | {"mesh": {"data": 1}}, devices=1)
    worst = {}
    for where, options in MESHES.items():
        processes = options.get("processes", 1)
        options = {key: x for key, x in options.items() if key != "processes"}
        found, (counts, gathered) = _work(out, task | options, processes=processes)
        worst[where] = differences(found, wanted)
        print(name, size, where, worst[where], counts, flush=True)
        if where == "data=4":
            assert counts.keys() == {"all-reduce"}
    assert max(max(kinds.values()) for kinds in worst.values()) < 1e-5

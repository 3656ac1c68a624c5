"""Arrays on a mesh that spans two processes of two devices, and their meeting."""

import os
import pathlib
import subprocess
import sys

import jobs
import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_CHILD = """
import pathlib, sys, time
import jax, numpy as np
from eseg_jax import job, sharding
job.join("auto")
index = jax.process_index()
mesh = sharding.make_mesh({"data": -1, "spatial": 2})
assert mesh.devices.shape == (2, 2)
assert [[d.process_index for d in row] for row in mesh.devices] == [[0, 0], [1, 1]]

# Image i of the batch has the value 10 * i + its row.
rows = 10 * np.arange(4)[:, None, None] + np.arange(6)[:, None] + np.zeros(3, int)
batch = sharding.put_batch({"label": rows[2 * index : 2 * index + 2]}, mesh)
label = batch["label"]
assert label.shape == (4, 6, 3)
for shard in label.addressable_shards:
    np.testing.assert_array_equal(shard.data, rows[shard.index])
    assert shard.data.shape == (2, 3, 3)
total = jax.jit(lambda x: x.sum(1), out_shardings=sharding.batched(mesh))(label)
np.testing.assert_array_equal(sharding.local_rows(total), rows.sum(1)[2 * index :][:2])

# Shares that other processes hold come back whole.
state = {"head": {"kernel": np.arange(24.0).reshape(2, 12)}}
places = sharding.by_rules(state, mesh, [("head/kernel", ("data",))])
split = jax.jit(lambda: state, out_shardings=places)()
assert split["head"]["kernel"].addressable_data(0).shape == (2, 6)
whole = jax.device_put(split, sharding.replicated(mesh))
found = jax.device_get(whole)["head"]["kernel"]
np.testing.assert_array_equal(found, state["head"]["kernel"])
try:
    sharding.make_mesh({"data": 1, "spatial": 4})
except ValueError as error:
    print("REFUSED", error)

# The one that comes first waits for the other.
mark = pathlib.Path(sys.argv[1])
if index == 1:
    time.sleep(1)
    mark.touch()
job.wait_for_processes("the mark is there")
assert mark.exists()
"""


@pytest.mark.multiprocess
def test_rows_and_shares(tmp_path):
    port = jobs.free_port()
    env = dict(
        os.environ,
        JAX_PLATFORMS="cpu",
        JAX_NUM_CPU_DEVICES="2",
        JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
        JAX_NUM_PROCESSES="2",
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(tmp_path / "mark")],
            cwd=_ROOT,
            env=env | {"JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    codes, logs = jobs.finish(*processes)
    assert codes == [0, 0], "\n".join(logs)
    assert all("REFUSED" in log and "2 devices each" in log for log in logs)

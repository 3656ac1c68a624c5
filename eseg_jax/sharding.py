"""How arrays lie on devices: the only file that names mesh axes.

`jax.jit` with `NamedSharding` is what was once called pjit. The step is written for
one device; these shardings make it run on all, and XLA adds the all-reduces.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(axes: Mapping[str, int], devices=None) -> Mesh:
    """Makes the mesh of all devices, or of those given.

    Args:
      axes: devices along "data"; -1 stands for all that are left.
      devices: the devices to use; all by default.

    Raises:
      ValueError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = dict(axes)
    open_axes = [name for name, size in sizes.items() if size == -1]
    fixed = int(np.prod([size for size in sizes.values() if size != -1]))
    if len(open_axes) == 1 and fixed > 0 and len(devices) % fixed == 0:
        sizes[open_axes[0]] = len(devices) // fixed
    if int(np.prod(list(sizes.values()))) != len(devices):
        raise ValueError(
            f"config.mesh {dict(axes)} does not fill the {len(devices)} devices; set "
            "--config.mesh.data=-1 to use them all."
        )
    # Auto axes: with Explicit ones, the default, scatter and dropout raise.
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=devices,
    )


def for_batches(mesh: Mesh, batch_size: int) -> Mesh:
    """The mesh; for batches smaller than it, as images of many sizes make them, a part.

    Only a lone process can leave devices out.
    """
    if jax.process_count() > 1 or batch_size >= mesh.shape["data"]:
        return mesh
    return make_mesh({"data": batch_size}, list(mesh.devices.flat[:batch_size]))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh) -> NamedSharding:
    """The first axis, the batch, is split over "data"."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, mesh: Mesh, field: str) -> None:
    """Raises ValueError when a global batch cannot be split over the mesh."""
    shards = mesh.shape["data"]
    if batch_size % shards:
        lower = batch_size // shards * shards
        nearest = " or ".join(str(n) for n in (lower, lower + shards) if n)
        raise ValueError(
            f"{field}={batch_size} cannot be divided among the {shards} devices of "
            f"the data axis; set --{field}={nearest}."
        )


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays of this process's rows of a batch."""
    sharding = batched(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows)
        for name, rows in batch.items()
    }


def wait_for_processes(name: str) -> None:
    """Returns once every process has come here; `name` is unique to the place."""
    multihost_utils.sync_global_devices(name)


def local_rows(array: jax.Array) -> np.ndarray:
    """This process's rows of an array split along its first axis, in order."""
    shards = {shard.index[0].start or 0: shard for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start].data) for start in sorted(shards)])


def sum_over_processes(values: np.ndarray) -> np.ndarray:
    """Sum of every process's float64 array, in float64."""
    if jax.process_count() == 1:
        return values
    # As bits: on the way through the devices float64 would become float32.
    bits = multihost_utils.process_allgather(values.view(np.uint32))
    return np.asarray(bits).view(np.float64).sum(axis=0)

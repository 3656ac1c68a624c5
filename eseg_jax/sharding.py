"""How arrays lie on devices: the only file that names mesh axes.

`jax.jit` with `NamedSharding` is what was once called pjit. The step is written for
one device; these shardings make it run on all, and XLA adds what they say to each
other. The axis "data" splits a batch, "spatial" the rows of its images: convolutions,
pooling and resizing then exchange the rows at the seams, and a level with fewer rows
than devices is whole on each of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eseg_jax.trees import flatten_names, map_with_names

AXES = ("data", "spatial")
_LEAST_ROWS = 32
Rules = Sequence[tuple[str, Sequence[str | None]]]


def make_mesh(axes: Mapping[str, int], devices=None) -> Mesh:
    """Makes the mesh of all devices, or of those given.

    The devices of a process are neighbours in it, in an order that suits their wiring,
    and hold whole images: what the input feeds to a process stays there, and rows go
    from chip to chip of one host. Processes, and with them the slices of a multi-slice
    job, follow each other along "data": across hosts and slices go sums only.

    Args:
      axes: devices along "data" and along "spatial", 1 if it is missing; -1 stands for
        all that are left.
      devices: the devices to use; all by default.

    Raises:
      ValueError: the axes do not multiply to the number of devices, or an image would
        lie on several processes.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {name: axes.get(name, 1) for name in AXES}
    open_axes = [name for name, size in sizes.items() if size == -1]
    fixed = int(np.prod([size for size in sizes.values() if size != -1]))
    if len(open_axes) == 1 and fixed > 0 and len(devices) % fixed == 0:
        sizes[open_axes[0]] = len(devices) // fixed
    data, spatial = sizes.values()
    if data * spatial != len(devices):
        raise ValueError(
            f"config.mesh {dict(axes)} does not fill the {len(devices)} devices; set "
            "--config.mesh.data=-1 to use them all, with a spatial axis that divides "
            "their number."
        )
    processes = len({device.process_index for device in devices})
    if data % processes:
        raise ValueError(
            f"config.mesh.spatial={spatial} would split an image over processes, which "
            f"hold {len(devices) // processes} devices each; set --config.mesh.spatial "
            "to a number that divides that."
        )
    grid = mesh_utils.create_hybrid_device_mesh(
        (data // processes, spatial),
        (processes, 1),
        devices,
        process_is_granule=True,
        allow_split_physical_axes=True,
    )
    # Auto axes: with Explicit ones, the default, scatter and dropout raise.
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def for_batches(mesh: Mesh, batch_size: int) -> Mesh:
    """The mesh; for batches smaller than it, as images of many sizes make them, a part.

    Only a lone process can leave devices out.
    """
    if jax.process_count() > 1 or batch_size >= mesh.shape["data"]:
        return mesh
    return Mesh(mesh.devices[:batch_size], mesh.axis_names, axis_types=mesh.axis_types)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh) -> NamedSharding:
    """The first axis, the batch, is split over "data"."""
    return NamedSharding(mesh, PartitionSpec("data"))


def of_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, NamedSharding]:
    """Where the arrays [n, …] of a batch go: images and label maps by rows, too.

    An image whose height "spatial" does not divide is whole on each of its devices,
    which then do the same work.
    """

    def place(array) -> NamedSharding:
        spatial = mesh.shape.get("spatial", 1)
        if spatial == 1 or len(array.shape) < 3 or array.shape[1] % spatial:
            return batched(mesh)
        return NamedSharding(mesh, PartitionSpec(*AXES))

    return {name: place(array) for name, array in batch.items()}


def by_rules(state: Any, mesh: Mesh, rules: Rules) -> Any:
    """Where the leaves of a train state go: whole on each device but for `rules`.

    Args:
      state: a tree of arrays or shapes.
      mesh: the mesh.
      rules: pairs of a regular expression and axes of the mesh or None. The first one
        that matches a name, or the end of it after a "/", tells how the last dimensions
        are split: `(("classifier/kernel", ("data",)),)` gives each device a share of
        the classifier's outputs, in the parameters, their average and the optimiser's
        state. A dimension that the axis does not divide stays whole.

    Returns:
      The tree of shardings.

    Raises:
      ValueError: an expression matches nothing, or has more axes than what it matches.
    """

    def first_match(name):
        return next((i for i, (e, _) in enumerate(rules) if _matches(e, name)), None)

    def place(name, leaf) -> NamedSharding:
        found = first_match(name)
        if found is None:
            return replicated(mesh)
        axes, shape = rules[found][1], tuple(leaf.shape)
        if len(axes) > len(shape):
            raise ValueError(
                f"config.sharding_rules has {len(axes)} axes for {name}, whose shape "
                f"is {shape}; make {rules[found][0]!r} narrower."
            )
        spec = [None] * (len(shape) - len(axes)) + [
            axis if axis and length % mesh.shape[axis] == 0 else None
            for axis, length in zip(axes, shape[len(shape) - len(axes) :], strict=True)
        ]
        return NamedSharding(mesh, PartitionSpec(*spec))

    names = flatten_names(state)
    for expression, _ in rules:
        if not any(_matches(expression, name) for name in names):
            raise ValueError(
                f"config.sharding_rules: {expression!r} matches no parameter; "
                "a run's config.json lists their names under parameter_table."
            )
    return map_with_names(place, state)


def _matches(expression: str, name: str) -> bool:
    return re.fullmatch(f"(.*/)?(?:{expression})", name) is not None


def check_rows(height: int, mesh: Mesh, field: str) -> None:
    """Raises ValueError when images of this height cannot be split over the mesh."""
    spatial = mesh.shape["spatial"]
    if height % spatial:
        raise ValueError(
            f"{field}: a height of {height} cannot be divided among the {spatial} "
            f"devices of the spatial axis; choose {height // spatial * spatial} or "
            f"{(height // spatial + 1) * spatial}, or another --config.mesh.spatial."
        )
    if spatial > 1 and height < _LEAST_ROWS * spatial:
        raise ValueError(
            f"{field}: a height of {height} leaves fewer than {_LEAST_ROWS} rows to "
            f"each of the {spatial} devices of the spatial axis; so few are not worth "
            "splitting, and gradients of nine rows were found wrong: set "
            "--config.mesh.spatial=1."
        )


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
    places = of_batch(batch, mesh)
    return {
        name: jax.make_array_from_process_local_data(places[name], rows)
        for name, rows in batch.items()
    }


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

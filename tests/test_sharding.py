"""Meshes, placement of batches, and what the compiled step says to other devices."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import mesh_worker
import numpy as np
import pytest
from jax.experimental import topologies

from eseg_jax import evaluate, optimizer, sharding, state, trees
from eseg_jax.models import sfnet
from eseg_jax.models.backbones import dfnet
from eseg_jax.models.layers import PYTORCH


def test_minus_one_takes_the_remaining_devices():
    mesh = sharding.make_mesh({"data": -1, "spatial": 2})
    assert dict(mesh.shape) == {"data": 2, "spatial": 2}
    assert [device.id for device in mesh.devices.flat] == [0, 1, 2, 3]


@dataclasses.dataclass(frozen=True)
class _Chip:
    """As much of a device as the order of a mesh depends on."""

    process_index: int
    slice_index: int
    id: int
    device_kind: str = "none"
    platform: str = "cpu"


def test_processes_and_slices_are_outermost(monkeypatch):
    made = []
    monkeypatch.setattr(sharding, "Mesh", lambda grid, *_, **__: made.append(grid))
    # Two slices of two hosts of four chips, listed in another order.
    chips = [_Chip(p, p // 2, 4 * p + i) for i in range(4) for p in (2, 0, 3, 1)]
    sharding.make_mesh({"data": -1, "spatial": 2}, chips)
    (grid,) = made
    assert grid.shape == (8, 2)
    assert [chip.id for chip in grid.flat] == list(range(16))
    assert [chip.slice_index for chip in grid[:, 0]] == [0] * 4 + [1] * 4
    with pytest.raises(ValueError, match="split an image over processes.* 4 devices"):
        sharding.make_mesh({"data": 2, "spatial": 8}, chips)


@pytest.mark.tpu_aot
@pytest.mark.parametrize("spatial", [1, 2, 4])
def test_the_mesh_of_a_slice(monkeypatch, spatial):
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    slice_ = topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4")
    mesh = sharding.make_mesh({"data": -1, "spatial": spatial}, slice_.devices)
    hosts = [[chip.process_index for chip in row] for row in mesh.devices]
    assert hosts == sorted([[host] * spatial for host in range(4)] * (4 // spatial))
    for row in mesh.devices:
        for a, b in itertools.pairwise(chip.coords for chip in row):
            assert np.abs(np.subtract(a, b)).sum() <= (1 if spatial == 2 else 2)


def test_mesh_that_does_not_fill_the_devices():
    with pytest.raises(ValueError, match="does not fill the 4 devices"):
        sharding.make_mesh({"data": 3})


def test_batch_not_divisible(mesh):
    with pytest.raises(ValueError, match="input.batch_size=6.*4 or 8"):
        sharding.check_batch_size(6, mesh, "config.input.batch_size")
    sharding.check_batch_size(8, mesh, "config.input.batch_size")


def test_put_and_get_rows(mesh):
    rows = np.arange(8 * 3).reshape(8, 3)
    array = sharding.put_batch({"x": rows}, mesh)["x"]
    assert array.addressable_shards[0].data.shape == (2, 3)
    np.testing.assert_array_equal(sharding.local_rows(array), rows)
    whole = jax.device_put(rows, sharding.replicated(mesh))
    np.testing.assert_array_equal(sharding.local_rows(whole), rows)


def test_images_and_labels_are_split_by_rows():
    mesh = sharding.make_mesh({"data": 2, "spatial": 2})
    image, label = np.zeros((2, 6, 3, 3), np.uint8), np.zeros((2, 6, 3), np.uint8)
    batch = {"image": image, "label": label, "class": np.zeros(2, np.int32)}
    placed = sharding.put_batch(batch, mesh)
    parts = {name: x.addressable_shards[0].data.shape for name, x in placed.items()}
    assert parts == {"image": (1, 3, 3, 3), "label": (1, 3, 3), "class": (1,)}
    odd = sharding.put_batch({"image": image[:, :5]}, mesh)["image"]
    assert odd.addressable_shards[0].data.shape == (1, 5, 3, 3)
    with pytest.raises(ValueError, match="crop: a height of 5 .* choose 4 or 6"):
        sharding.check_rows(5, mesh, "config.input.crop")
    with pytest.raises(ValueError, match="fewer than 32 rows"):
        sharding.check_rows(62, mesh, "config.input.crop")
    sharding.check_rows(64, mesh, "config.input.crop")


def test_rules_by_name():
    mesh = sharding.make_mesh({"data": 2, "spatial": 2})
    leaves = {"head/kernel": np.zeros((3, 3, 4, 8)), "head/bias": np.zeros(7)}
    tree = {"params": trees.unflatten_names(leaves), "step": np.int32(0)}
    rules = [("head/kernel", ("spatial", "data")), (".*bias", ("data",))]
    placed = trees.flatten_names(sharding.by_rules(tree, mesh, rules))
    specs = {name: tuple(place.spec) for name, place in placed.items()}
    assert specs["params/head/kernel"] == (None, None, "spatial", "data")
    assert specs["params/head/bias"] == (None,)  # 7 is odd
    assert specs["step"] == ()
    with pytest.raises(ValueError, match="'tail' matches no parameter"):
        sharding.by_rules(tree, mesh, [("tail", ("data",))])
    with pytest.raises(ValueError, match="2 axes for params/head/bias"):
        sharding.by_rules(tree, mesh, [("head/bias", (None, "data"))])


@pytest.mark.parametrize(
    "platform", ["cpu", pytest.param("tpu", marks=pytest.mark.tpu_aot)]
)
def test_sfnet_gathers_no_batch(platform, mesh, monkeypatch):
    """Its warps are loops and kernels, which XLA cannot split by itself."""
    if platform == "tpu":
        monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
        monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4")
        mesh = sharding.make_mesh({"data": -1}, topology.devices)
    dtype = jnp.dtype("bfloat16" if platform == "tpu" else "float32")
    style = dataclasses.replace(PYTORCH, dtype=dtype)
    taps = [dfnet.Stage(tap, 1, 8, 2, tap) for tap in ("x3", "x4", "x5")]
    model = sfnet.SFNet(
        5,
        dfnet.DFNet(tuple(taps), style),
        sfnet.Variant(
            "df1", 128, fam_levels=(0,), context="none", deep_supervision=False
        ),
        style,
    )
    shape = (8, 64, 64)
    batch = {
        "image": jax.ShapeDtypeStruct((*shape, 3), np.uint8),
        "label": jax.ShapeDtypeStruct(shape, np.uint8),
    }
    _, compiled = mesh_worker.compile_step(model, batch, mesh)
    assert mesh_worker.collectives(compiled.as_text())[0].keys() == {"all-reduce"}


def test_no_two_leaves_share_memory(tiny_config):
    model = evaluate.create_model(tiny_config, 19)
    tx = optimizer.make_optimizer(tiny_config.optimizer, 10)
    made = jax.jit(lambda: state.init_state(model, tx, jax.random.key(0)))()
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(made)]
    assert len(set(pointers)) == len(pointers)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(made.params))

"""What every operation of `eseg_jax.ops` is held to, whatever it computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def normal(*shape, seed=0):
    """A float32 array of the standard normal distribution."""
    values = np.random.default_rng([seed, *shape]).normal(size=shape)
    return jnp.asarray(values, jnp.float32)


def with_gradients(function, *inputs):
    """(output, gradients of the inputs) under a cotangent that bfloat16 holds."""

    def both(*inputs):
        output, pull = jax.vjp(function, *inputs)
        cotangent = jnp.arange(output.size).reshape(output.shape) % 7 - 3
        return output, pull(cotangent.astype(output.dtype))

    return jax.jit(both)(*inputs)


def assert_close(results, expected, tolerance=2e-5):
    """Compares trees of arrays, relative to the largest value of each."""
    for ours, theirs in zip(
        jax.tree.leaves(results), jax.tree.leaves(expected), strict=True
    ):
        assert ours.dtype == theirs.dtype
        ours, theirs = (np.asarray(x, np.float64) for x in (ours, theirs))
        scale = max(np.abs(theirs).max(), 1e-3)
        np.testing.assert_allclose(ours / scale, theirs / scale, 0, tolerance)


def check_reference(function, reference, *inputs):
    """The value and all gradients are the reference's."""
    assert_close(with_gradients(function, *inputs), with_gradients(reference, *inputs))


def check_vmap(function, *inputs):
    """Mapping over a new leading axis is the same as a loop, gradients included."""
    batches = [jnp.stack([x, 2 * x[::-1]]) for x in inputs]
    mapped = jax.vmap(lambda *inputs: with_gradients(function, *inputs))(*batches)
    for i in range(2):
        one = with_gradients(function, *(batch[i] for batch in batches))
        assert_close(jax.tree.map(lambda x, i=i: x[i], mapped), one)


def check_bfloat16(function, *inputs):
    """bfloat16 in, bfloat16 out, and only the last rounding shows."""
    rounded = [x.astype(jnp.bfloat16) for x in inputs]
    exact = with_gradients(function, *(x.astype(jnp.float32) for x in rounded))
    expected = jax.tree.map(lambda x: x.astype(jnp.bfloat16), exact)
    assert_close(with_gradients(function, *rounded), expected, 2**-7)


def _compile_sharded(function, mesh, shapes):
    """Compiles value and gradients: the first input and the output split over "data".

    The other inputs, kernels, are on every device, and so are their gradients.
    """
    split, whole = (
        NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ())
    )
    places = [split, *[whole] * (len(shapes) - 1)]
    return (
        jax.jit(
            lambda *inputs: with_gradients(function, *inputs),
            out_shardings=(split, tuple(places)),
        )
        .lower(
            *(
                jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
                for x, place in zip(shapes, places, strict=True)
            )
        )
        .compile(),
        places,
    )


def _assert_only_kernels_cross(compiled, kernels):
    text = compiled.as_text()
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert collective not in text
    assert ("all-reduce" in text) == bool(kernels)


def check_sharded(mesh, function, x, *kernels):
    """Four devices, a quarter of the batch each, give what one device gives.

    Nothing but sums of kernel gradients passes between them.
    """
    compiled, places = _compile_sharded(function, mesh, (x, *kernels))
    _assert_only_kernels_cross(compiled, kernels)
    inputs = (x, *kernels)
    results = compiled(
        *(jax.device_put(x, place) for x, place in zip(inputs, places, strict=True))
    )
    assert_close(results, with_gradients(function, *inputs))


def check_tpu(monkeypatch, function, x, *kernels):
    """Compiles in bfloat16 for four v5e chips, with the collectives of a CPU."""
    pytest.importorskip("libtpu", reason="no libtpu: pip install -e .[tpu]")
    from jax.experimental import topologies

    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    mesh = jax.sharding.Mesh(
        np.array(topology.devices), ("data",), axis_types=(AxisType.Auto,)
    )
    shapes = [
        jax.ShapeDtypeStruct(array.shape, jnp.bfloat16) for array in (x, *kernels)
    ]
    compiled, _ = _compile_sharded(function, mesh, shapes)
    _assert_only_kernels_cross(compiled, kernels)

"""The warp against sums done by hand, its own reference and PyTorch's results."""

import contextlib
import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from eseg_jax.ops import warp, warp_tpu
from eseg_jax.ops.warp import bilinear_warp, bilinear_warp_reference

FIXTURES = pathlib.Path(
    os.environ.get(
        "ESEG_JAX_TEST_FIXTURES",
        pathlib.Path(__file__).resolve().parents[3] / "shared" / "fixtures",
    )
)
CASES = ("00", "02", "05", "07", "08", "11", "13", "14", "16", "19")
MODES = [(align, mode) for align in (True, False) for mode in ("zeros", "border")]
COLLECTIVES = ("all-gather", "all-to-all", "all-reduce", "collective-permute")

# Rows 0 1 2 / 3 4 5.
SMALL = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)


def points(*xy):
    return np.array(xy, np.float32).reshape(1, 1, -1, 2)


def random_inputs(n=2, h=5, w=7, c=3, seed=0, reach=1.6):
    """Features, a grid that leaves the map on all sides, and a cotangent."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, h, w, c)).astype(np.float32)
    grid = rng.uniform(-reach, reach, (n, 4, 6, 2)).astype(np.float32)
    cotangent = rng.normal(size=(n, 4, 6, c)).astype(np.float32)
    return features, grid, cotangent


def with_gradients(function, features, grid, cotangent):
    output, pull = jax.vjp(function, features, grid)
    return output, *pull(cotangent)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (-1.0, -1.0, 0.0),
        (1.0, 1.0, 5.0),
        (0.0, 0.0, 2.5),  # the middle of column 1
        (0.5, -1.0, 1.5),
        (0.25, 0.5, 1.25 + 0.75 * 3),
        (1.5, -1.0, 0.5 * 2.0),  # half a pixel beyond the right edge
        (1.0, -1.5, 0.75 * 2.0),  # a quarter above the top
        (2.0, 0.0, 0.0),
        (0.0, -3.0, 0.0),
    ],
)
def test_values_with_corners_aligned(x, y, expected):
    output = bilinear_warp(SMALL, points((x, y)))
    np.testing.assert_allclose(output, np.full((1, 1, 1, 1), expected), rtol=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (-2 / 3, -0.5, 0.0),  # the centre of the first pixel
        (2 / 3, 0.5, 5.0),
        (0.0, -0.5, 1.0),
        (1.0, 0.5, 5.0 / 2),  # the right edge: half of the weight is outside
        (1.0, 1.0, 5.0 / 4),
    ],
)
def test_values_with_edges_aligned(x, y, expected):
    output = bilinear_warp(SMALL, points((x, y)), align_corners=False)
    np.testing.assert_allclose(
        output, np.full((1, 1, 1, 1), expected), rtol=1e-5, atol=1e-6
    )


def test_border_repeats_the_edge():
    grid = points((9, -1), (-9, 9), (9, 0), (0.5, -7))
    output = bilinear_warp(SMALL, grid, padding_mode="border")
    np.testing.assert_allclose(output[0, 0, :, 0], [2.0, 3.0, 3.5, 1.5], rtol=1e-6)


def test_gradients_by_hand():
    # x = 0.25, y = 0.5 is the point (column 1.25, row 0.75).
    _, d_features, d_grid = with_gradients(
        bilinear_warp, SMALL, points((0.25, 0.5)), jnp.full((1, 1, 1, 1), 2.0)
    )
    weights = np.array([[0, 0.75 * 0.25, 0.25 * 0.25], [0, 0.75 * 0.75, 0.25 * 0.75]])
    np.testing.assert_allclose(d_features[0, ..., 0], 2 * weights, rtol=1e-6)
    # A column is worth 1 and a row 3; the map has 2 / 2 columns and 1 / 2 rows to 1.
    np.testing.assert_allclose(d_grid[0, 0, 0], [2 * 1.0, 2 * 3 * 0.5], rtol=1e-6)


@pytest.mark.parametrize("mode", ["zeros", "border"])
def test_points_far_outside_have_no_gradient(mode):
    grid = points((30, 0), (0, -30), (np.inf, -np.inf), (-np.inf, np.inf))
    output, d_features, d_grid = with_gradients(
        functools.partial(bilinear_warp, padding_mode=mode),
        SMALL,
        grid,
        jnp.ones((1, 1, 4, 1)),
    )
    assert np.isfinite(output).all()
    assert np.isfinite(d_features).all()
    np.testing.assert_array_equal(d_grid[0, 0, 2:], np.zeros((2, 2)))
    outside = d_grid[0, 0, 0, 0], d_grid[0, 0, 1, 1]
    np.testing.assert_array_equal(outside, np.zeros(2))
    if mode == "zeros":
        np.testing.assert_array_equal(output, np.zeros((1, 1, 4, 1)))
        np.testing.assert_array_equal(d_features, np.zeros_like(SMALL))


def test_a_coordinate_that_is_no_number_stays_where_it_is():
    output = bilinear_warp(SMALL, points((np.nan, 0), (0, 0)))
    np.testing.assert_array_equal(np.isnan(output[0, 0, :, 0]), [True, False])
    assert output[0, 0, 1, 0] == 2.5


@pytest.mark.parametrize(("align", "mode"), MODES)
def test_gradients_are_those_of_automatic_differentiation(align, mode):
    options = {"align_corners": align, "padding_mode": mode}
    results = [
        jax.jit(
            functools.partial(with_gradients, functools.partial(function, **options))
        )(*random_inputs())
        for function in (bilinear_warp, bilinear_warp_reference)
    ]
    for ours, automatic in zip(*results, strict=True):
        np.testing.assert_allclose(ours, automatic, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("align", "mode"), MODES)
def test_every_form_gives_the_same(align, mode):
    """What other platforms run, run here."""
    features, grid, cotangent = map(jnp.asarray, random_inputs(seed=1))
    np.testing.assert_allclose(
        warp._forward_packed(features, grid, align, mode),
        warp._forward_gathers(features, grid, align, mode),
        rtol=1e-5,
        atol=1e-6,
    )
    y, x = warp._locate(grid, features.shape, align, mode)
    arrays = (features, y.corner, x.corner, y.fraction, x.fraction, cotangent)
    for loop, scatter in zip(
        jax.jit(warp._backward_loop)(*arrays),
        jax.jit(warp._backward_scatter)(*arrays),
        strict=True,
    ):
        np.testing.assert_allclose(loop, scatter, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n", "h", "w", "c"), [(2, 5, 7, 64), (1, 3, 8, 256)])
def test_tpu_kernels(n, h, w, c):
    """Their arithmetic; a product of the matrix unit is exact in bfloat16 only."""
    features, grid, cotangent = random_inputs(n, h, w, c, seed=5)
    features, cotangent = jnp.bfloat16(features), jnp.bfloat16(cotangent)
    grid[0, 0, :3] = [[np.nan, 0], [np.inf, -np.inf], [-1e30, 0]]
    y, x = warp._locate(jnp.asarray(grid), features.shape, True, "zeros")
    arrays = (features, y.corner, x.corner, y.fraction, x.fraction)
    ours, theirs = (
        jax.jit(functools.partial(warp_tpu.forward, interpret=True))(*arrays),
        warp._forward_gathers(features, jnp.asarray(grid), True, "zeros"),
    )
    assert ours.dtype == jnp.bfloat16
    # Where float32 sums differ in their last bits, rounding may go the other way.
    np.testing.assert_allclose(
        *(np.asarray(z, np.float32) for z in (ours, theirs)), rtol=2.0**-7, atol=1e-4
    )
    # No gradient has a use for a coordinate that is no number.
    arrays = (*arrays[:3], *map(jnp.nan_to_num, arrays[3:]))
    d_features, products = jax.jit(
        functools.partial(warp_tpu.backward, interpret=True)
    )(*arrays, cotangent)
    expected, *d_fractions = warp._backward_scatter(*arrays, cotangent)
    assert d_features.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(d_features, np.float32), expected, rtol=2.0**-8, atol=1e-4
    )
    for ours, theirs in zip(
        warp._d_fractions(products, *arrays[3:]), d_fractions, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


def test_vmap():
    inputs = [
        jnp.stack(pair)
        for pair in zip(random_inputs(seed=2), random_inputs(seed=3), strict=True)
    ]
    function = jax.jit(functools.partial(with_gradients, bilinear_warp))
    mapped = jax.jit(jax.vmap(functools.partial(with_gradients, bilinear_warp)))
    for i in (0, 1):
        for one, many in zip(
            function(*(x[i] for x in inputs)), mapped(*inputs), strict=True
        ):
            np.testing.assert_allclose(many[i], one, rtol=1e-5, atol=1e-6)


def test_bfloat16_features():
    features, grid, cotangent = random_inputs(seed=4)
    low = jnp.asarray(features, jnp.bfloat16), grid, jnp.bfloat16(cotangent)
    exact = [jnp.asarray(x, jnp.float32) for x in low]
    function = jax.jit(functools.partial(with_gradients, bilinear_warp))
    output, d_features, d_grid = function(*low)
    assert (output.dtype, d_features.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert d_grid.dtype == jnp.float32
    # Only the results are rounded, to 8 bits; the sums are float32.
    for ours, theirs, bits in zip(
        (output, d_features, d_grid), function(*exact), (8, 8, 18), strict=True
    ):
        np.testing.assert_allclose(
            np.asarray(ours, np.float32), theirs, rtol=2.0**-bits, atol=1e-5
        )
    packed = warp._forward_packed(low[0], jnp.asarray(grid), True, "zeros")
    np.testing.assert_array_equal(packed, output)


def test_coordinates_are_float32_under_bfloat16_features():
    # A ramp of 512 columns that bfloat16 holds exactly, sampled at 500.25 and 500.75.
    # A bfloat16 grid would know the column to a pixel or two.
    ramp = jnp.broadcast_to(jnp.arange(512) % 2, (1, 1, 512)).astype(jnp.bfloat16)
    columns = np.array([500.25, 500.75])
    grid = points(*((x / 511 * 2 - 1, -1) for x in columns))
    output = bilinear_warp(ramp[..., None], grid)
    np.testing.assert_allclose(
        np.asarray(output[0, 0, :, 0], np.float32), [0.25, 0.75], atol=5e-3
    )


@pytest.mark.parametrize(
    ("spec", "free"),
    [(PartitionSpec("data"), True), (PartitionSpec(None, "data"), False)],
    ids=["batch", "rows"],
)
def test_sharded(mesh, spec, free):
    inputs = [np.concatenate([x] * 2) for x in random_inputs(n=2, h=8)]
    function = functools.partial(with_gradients, bilinear_warp)
    expected = jax.jit(function)(*inputs)
    with jax.set_mesh(mesh):
        sharding = NamedSharding(mesh, spec)
        compiled = (
            jax.jit(function, in_shardings=sharding, out_shardings=sharding)
            .lower(*inputs)
            .compile()
        )
        results = compiled(*(jax.device_put(x, sharding) for x in inputs))
    for ours, one_device in zip(results, expected, strict=True):
        np.testing.assert_allclose(ours, one_device, rtol=1e-5, atol=1e-6)
    if free:
        found = [name for name in COLLECTIVES if name in compiled.as_text()]
        assert found == []


@pytest.mark.tpu_aot
@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "gather"])
def test_compiles_for_tpu_without_collectives(kernel, monkeypatch):
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    mesh = topologies.make_mesh(topology, (4,), ("data",))
    mesh = jax.sharding.Mesh(mesh.devices, ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    shapes = [(4, 13, 23, 128), (4, 26, 46, 2), (4, 26, 46, 128)]
    dtypes = [jnp.bfloat16, jnp.float32, jnp.bfloat16]
    function = jax.jit(
        functools.partial(with_gradients, bilinear_warp), out_shardings=sharding
    )
    # Without the mesh no kernel is possible: XLA cannot split one.
    with jax.set_mesh(mesh) if kernel else contextlib.nullcontext():
        lowered = function.lower(
            *(
                jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
                for shape, dtype in zip(shapes, dtypes, strict=True)
            )
        )
    text = lowered.compile().as_text()
    assert (text.count("tpu_custom_call"), "gather" in text) == (
        (2, False) if kernel else (0, True)
    )
    assert "while" not in text  # this is not the CPU's loop
    assert [name for name in COLLECTIVES if name in text] == []


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bits", [32, 64])
def test_pytorch(case, bits):
    path = FIXTURES / "warp" / f"case_{case}.npz"
    if not path.is_file():
        pytest.skip(f"no {path}; ESEG_JAX_TEST_FIXTURES names the fixtures' folder")
    data = np.load(path)
    dtype, suffix = (np.float32, "") if bits == 32 else (np.float64, "_f64")

    def nhwc(name):
        return np.moveaxis(data[name], 1, -1).astype(dtype)

    function = functools.partial(
        bilinear_warp,
        align_corners=bool(data["align_corners"]),
        padding_mode=str(data["padding_mode"]),
    )
    with jax.enable_x64(bits == 64):
        output, d_features, d_grid = jax.jit(
            functools.partial(with_gradients, function)
        )(nhwc("input"), data["grid"].astype(dtype), nhwc("cotangent"))
    assert output.dtype == dtype
    # PyTorch's own float32 gradients of the grid, up to 114 here, are 4e-5 away from
    # its float64 ones: the tolerance has a relative part.
    tolerance = (
        {"rtol": 1e-5, "atol": 1e-5} if bits == 32 else {"rtol": 0, "atol": 1e-12}
    )
    np.testing.assert_allclose(output, nhwc(f"output{suffix}"), **tolerance)
    np.testing.assert_allclose(d_features, nhwc(f"grad_input{suffix}"), **tolerance)
    np.testing.assert_allclose(d_grid, data[f"grad_grid{suffix}"], **tolerance)


def test_unknown_padding_mode():
    with pytest.raises(ValueError, match="no padding_mode 'reflection'; choose zeros"):
        bilinear_warp(SMALL, points((0, 0)), padding_mode="reflection")


@pytest.mark.parametrize("shape", [(2, 1, 1, 2), (1, 1, 1, 3), (1, 1, 2)])
def test_shapes_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=r"takes features \[n, h, w, c\] and a grid"):
        bilinear_warp(SMALL, np.zeros(shape, np.float32))

"""SFNet against its authors' code, its paper's figures and sums done by hand."""

import ast
import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import check_training, shapes_of

from eseg_jax import models
from eseg_jax.models import cost, sfnet, weights
from eseg_jax.models.layers import PYTORCH, MaxPool
from eseg_jax.models.weight_files import WeightsError
from eseg_jax.ops.adaptive_pool import adaptive_avg_pool
from eseg_jax.ops.resize_corners import resize_align_corners
from eseg_jax.trees import flatten_names

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
FIXTURES = pathlib.Path(
    os.environ.get(
        "ESEG_JAX_TEST_FIXTURES",
        pathlib.Path(__file__).resolve().parents[3] / "shared" / "fixtures",
    )
)

count = functools.cache(cost.count)


def fixture(name):
    path = FIXTURES / name
    if not path.is_file():
        pytest.skip(f"no {path}; ESEG_JAX_TEST_FIXTURES names the fixtures' folder")
    return path


def nhwc(x):
    return np.moveaxis(x, 1, -1)


@functools.cache
def variables_of_the_authors():
    path = fixture("sfnet/resnet18_state_dict.npz")
    return weights.convert("sfnet_resnet18_official", str(path))


def forward(images, **options):
    """Logits and intermediates of the authors' network with other options."""
    model = models.create("sfnet_resnet18_official", 19, **options)
    outputs, updates = jax.jit(
        functools.partial(model.apply, train=False, mutable=["intermediates"])
    )(variables_of_the_authors(), nhwc(images))
    return outputs["logits"], {
        name: value for name, (value,) in updates["intermediates"].items()
    }


@pytest.mark.parametrize(
    ("name", "parameters", "supervision", "macs"),
    [
        ("resnet18", 12_869_715, 450_873, "121.484"),
        ("resnet50", 31_325_139, 1_786_425, "331.672"),
        ("resnet101", 50_317_267, 1_786_425, "409.250"),
        ("df1", 8_422_387, 76_582, "16.364"),
        ("df2", 17_876_467, 76_582, "39.985"),
    ],
)
def test_official_counts(name, parameters, supervision, macs):
    plain = count(f"sfnet_{name}_official", deep_supervision=False)
    assert plain.size == (1024, 1024)
    assert plain.parameters == parameters
    assert f"{plain.macs / 1e9:.3f}" == macs
    supervised = count(f"sfnet_{name}_official")
    assert supervised.parameters == parameters + supervision
    assert supervised.macs == plain.macs


@pytest.mark.parametrize(
    ("name", "parameters", "flops", "without_fam"),
    [
        ("resnet18", 12_869_715, "123.46", "122.37"),
        ("resnet50", 31_325_139, "337.07", "333.10"),
        ("resnet101", 50_317_267, "417.42", "413.45"),
        ("df1", 9_242_419, "18.57", "18.50"),
        ("df2", 18_696_499, "48.33", "48.07"),
        ("shufflenet", 4_047_027, "18.10", "17.84"),
    ],
)
def test_the_printed_flops(name, parameters, flops, without_fam):
    counted = count(f"sfnet_{name}", deep_supervision=False)
    assert counted.parameters == parameters
    assert f"{counted.paper_flops / 1e9:.2f}" == flops
    printed = models.info(f"sfnet_{name}").flops_g
    assert counted.paper_flops / 1e9 == pytest.approx(printed, rel=8e-3)
    fpn = count(f"sfnet_{name}", deep_supervision=False, fam_levels=())
    assert f"{fpn.paper_flops / 1e9:.2f}" == without_fam


def test_the_printed_flops_at_other_sizes():
    """PASCAL Context, 60 classes at 480x480: 75.4, and ADE20K, 150 classes: 75.7."""
    for classes, flops in ((60, "75.33"), (150, "75.67")):
        counted = count("sfnet_resnet50", (480, 480), classes, deep_supervision=False)
        assert f"{counted.paper_flops / 1e9:.2f}" == flops


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101", "df1", "df2"])
def test_names_and_shapes_are_those_of_the_authors(name):
    """Every name of their list is used but torch's counters; none is left over."""
    lines = fixture(f"sfnet/keys_{name}.txt").read_text().splitlines()
    shapes = dict(line.split("\t") for line in lines)
    arrays = {
        f"module.{key}": np.broadcast_to(np.float32(0), ast.literal_eval(shape))
        for key, shape in shapes.items()
    }
    _, record = weights.translate(f"sfnet_{name}_official", arrays)
    assert record["part"] == "all"
    assert all("num_batches_tracked" in key for key in record["dropped"])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"layer1.0.bn1.weight": None}, "missing layer1.0.bn1.weight (64,)"),
        ({"layer9.weight": np.zeros(4)}, "extra layer9.weight (4,)"),
        (
            {"head.conv_last.0.0.weight": np.zeros((64, 512, 3, 3))},
            "head.conv_last.0.0.weight is (64, 512, 3, 3) there and (128, 512, 3, 3)",
        ),
    ],
)
def test_a_wrong_name_of_the_authors_is_refused(change, line):
    arrays = dict(np.load(fixture("sfnet/resnet18_state_dict.npz"))) | change
    arrays = {name: x for name, x in arrays.items() if x is not None}
    with pytest.raises(WeightsError, match=r"\(1 differences\)") as error:
        weights.convert("sfnet_resnet18_official", arrays)
    assert line in str(error.value)


def test_every_intermediate_is_that_of_the_authors():
    data = dict(np.load(fixture("sfnet/resnet18_io.npz")))
    logits, ours = forward(data.pop("x"))
    np.testing.assert_array_equal(ours["logits_low"], logits)
    ours["ppm"] = ours.pop("context")
    # The supervision heads run in training only: here on what they would be given.
    variables = variables_of_the_authors()
    head = sfnet.SupervisionHead(19, 128, PYTORCH)
    apply = jax.jit(functools.partial(head.apply, train=False))
    for level in range(3):
        ours[f"dsn{2 - level}"] = apply(
            {kind: variables[kind][f"dsn_{level}"] for kind in variables},
            ours[f"lateral{level}"] + ours[f"warp{level}"],
        )
    ours["out"] = resize_align_corners(logits, (128, 256))
    assert set(ours) == set(data)
    for name, theirs in data.items():
        np.testing.assert_allclose(
            ours[name], nhwc(theirs), rtol=0, atol=5e-4, err_msg=name
        )
    assert ours["flow0"].std() > 1  # the warp is no mere enlargement here


@pytest.mark.parametrize(
    ("key", "options", "tolerance"),
    [
        ("logits_low_f64", {}, 5e-4),
        ("logits_low_odd", {}, 5e-4),
        ("logits_low_gridFalse", {"warp_align_corners": False}, 5e-4),
        (
            "logits_low_allFalse",
            {"warp_align_corners": False, "resize_align_corners": False},
            5e-4,
        ),
        ("logits_low_nodilation", {"dilated": False}, 1e-2),
        ("logits_low_nodilation_ceil", {"dilated": False, "ceil_mode": True}, 1e-2),
    ],
)
def test_variants_are_those_of_the_authors(key, options, tolerance):
    data = np.load(fixture("sfnet/resnet18_variants.npz"))
    if key == "logits_low_odd":
        images = data["x_odd"]
    else:
        images = np.load(fixture("sfnet/resnet18_io.npz"))["x"]
    logits, _ = forward(images, **options)
    np.testing.assert_allclose(logits, nhwc(data[key]), rtol=0, atol=tolerance)


def test_pooling_and_grid_are_those_of_pytorch():
    data = np.load(fixture("warp/adaptive_avg_pool.npz"))
    for case in range(5):
        for bins in sfnet.BINS:
            ours = adaptive_avg_pool(nhwc(data[f"p{case}_in"]), bins)
            np.testing.assert_allclose(
                ours, nhwc(data[f"p{case}_s{bins}"]), rtol=0, atol=1e-5
            )
    for key, theirs in np.load(fixture("warp/linspace.npz")).items():
        grid = sfnet.identity_grid(1, int(key[1:]))
        assert grid.dtype == np.float32
        np.testing.assert_allclose(grid[0, 0, :, 0], theirs, rtol=0, atol=1e-7)


def test_identity_grid():
    grid = sfnet.identity_grid(2, 3)
    np.testing.assert_array_equal(grid[0, :, :, 0], [[-1, 0, 1]] * 2)
    np.testing.assert_array_equal(grid[0, :, :, 1], [[-1] * 3, [1] * 3])
    np.testing.assert_array_equal(sfnet.identity_grid(1, 1), np.full((1, 1, 1, 2), -1))


def test_flow_of_alignment_by_hand():
    """A flow of (4, 0) reads 2 of the fine map's columns to the right."""
    fam = sfnet.FAM(
        sfnet.Variant("resnet18", 2, flow_kernel=1), PYTORCH, resize_align_corners
    )
    high = jnp.tile(jnp.arange(5.0).reshape(1, 1, 5, 1), (1, 3, 1, 2))
    low = jnp.tile(jnp.array([1.0, 0.0]), (1, 5, 9, 1))
    # One channel each: 0 from above, 1 from below, which makes (4, 0).
    kernels = {
        "down_h": np.zeros((2, 1)),
        "down_l": np.array([[1.0], [0.0]]),
        "flow_make": np.array([[7.0, 7.0], [4.0, 0.0]]),
    }
    params = {
        name: {"kernel": jnp.asarray(kernel, jnp.float32)[None, None]}
        for name, kernel in kernels.items()
    }
    warped, flow = jax.jit(fam.apply)({"params": params}, low, high)
    np.testing.assert_array_equal(flow, np.tile([4.0, 0.0], (1, 5, 9, 1)))
    # 9 columns onto 5 with corners aligned: half a column each. The grid's step is
    # 2 / 8 and 4 / 9 is added to it: 16 / 9 columns of 9, 8 / 9 of 5.
    columns = np.arange(9) / 2 + 8 / 9
    expected = np.where(columns < 4, columns, np.maximum(0, 4 * (5 - columns)))
    np.testing.assert_allclose(warped[0, 2, :, 1], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("upsampling", ["bilinear", "nearest", "deconvolution"])
def test_no_flow_is_a_resize(upsampling):
    variant = sfnet.Variant("resnet18", 4, flow_upsampling=upsampling)
    fam = sfnet.FAM(variant, PYTORCH, resize_align_corners)
    low, high = (
        jnp.ones((1, 7, 9, 4)),
        jax.random.normal(jax.random.key(0), (1, 4, 5, 4)),
    )
    shapes = jax.eval_shape(fam.init, jax.random.key(0), low, high)
    variables = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
    warped, _ = jax.jit(fam.apply)(variables, low, high)
    np.testing.assert_allclose(
        warped, resize_align_corners(high, (7, 9)), rtol=1e-5, atol=1e-5
    )


def test_ceil_mode_adds_a_window_to_even_sizes():
    x = jnp.arange(6.0).reshape(1, 6, 1, 1) * jnp.ones((1, 6, 6, 1))
    pooled = MaxPool(PYTORCH, ceil_mode=True).apply({}, x)
    np.testing.assert_array_equal(pooled[0, :, 0, 0], [1, 3, 5, 5])
    pooled = MaxPool(PYTORCH, ceil_mode=True).apply({}, x[:, :5])
    np.testing.assert_array_equal(pooled[0, :, 0, 0], [1, 3, 4])


@pytest.mark.parametrize(
    ("name", "finest"),
    [
        ("resnet18", (25, 41)),
        ("df1", (7, 11)),
        ("df2", (13, 21)),
        ("shufflenet", (13, 21)),
    ],
)
def test_sizes_not_divisible_by_32(name, finest):
    model = models.create(f"sfnet_{name}", 5)
    outputs, variables = jax.eval_shape(
        lambda x: model.init_with_output(
            {"params": jax.random.key(0), "dropout": jax.random.key(1)}, x, train=True
        ),
        jax.ShapeDtypeStruct((2, 97, 161, 3), jnp.float32),
    )
    assert outputs["logits"].shape == (2, *finest, 5)
    assert outputs["logits"].dtype == jnp.float32
    levels = 4 if name == "resnet18" else 3
    assert sorted(outputs["aux"]) == [f"level_{i}" for i in range(levels - 1)]
    assert outputs["aux"]["level_0"].shape == (2, *finest, 5)
    assert "intermediates" not in variables


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sfnet_resnet18", {}),
        pytest.param("sfnet_resnet50_official", {}, marks=pytest.mark.slow),
        pytest.param("sfnet_df1", {}, marks=pytest.mark.slow),
        pytest.param(
            "sfnet_df2",
            {"flow_upsampling": "deconvolution", "context": "none", "fam_levels": (1,)},
            marks=pytest.mark.slow,
        ),
        pytest.param("sfnet_shufflenet", {}, marks=pytest.mark.slow),
    ],
)
def test_training_moves_every_parameter_and_statistic(name, options):
    check_training(models.create(name, 3, features=8, **options))


def test_bfloat16_computes_between_float32_flow_and_logits():
    model = models.create("sfnet_df1", 3, jnp.bfloat16)

    def apply(variables, images):
        return model.apply(variables, images, train=False, mutable=["intermediates"])

    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    outputs, updates = jax.eval_shape(apply, shapes_of(model), images)
    dtypes = {name: x.dtype for name, (x,) in updates["intermediates"].items()}
    assert outputs["logits"].dtype == jnp.float32
    assert {dtypes[name] for name in ("flow0", "flow1")} == {jnp.dtype("float32")}
    assert dtypes["warp0"] == dtypes["context"] == dtypes["fpn_out0"] == jnp.bfloat16


def test_ablations():
    def tops(**options):
        model = models.create("sfnet_resnet18", 3, **options)
        params = shapes_of(model)["params"]
        return params, set(params)

    full, names = tops()
    params, fpn = tops(fam_levels=())
    assert names - fpn == {"fam_0", "fam_1", "fam_2"}
    assert tops(fam_levels=(2,))[1] == fpn | {"fam_2"}
    assert tops(context="none")[1] == (names - {"ppm"}) | {"projection"}
    supervision = {"dsn_0", "dsn_1", "dsn_2"}
    assert names - tops(deep_supervision=False)[1] == supervision
    kernel = tops(flow_kernel=5)[0]["fam_0"]["flow_make"]["kernel"]
    assert kernel.shape == (5, 5, 128, 2)
    deconvolution = tops(flow_upsampling="deconvolution")[0]["fam_0"]["deconvolution"]
    assert deconvolution["kernel"].shape == (1, 1, 64, 4 * 64)


@pytest.mark.parametrize(
    "name", ["sfnet_resnet18", "sfnet_df1_official", "sfnet_shufflenet"]
)
def test_names_and_shapes_are_those_of_the_golden_file(name):
    """Checkpoints hold these names: a change needs a converter and a new file."""
    shapes = flatten_names(shapes_of(models.create(name, 19)))
    lines = sorted(f"{name} {leaf.shape}" for name, leaf in shapes.items())
    assert lines == (GOLDEN / f"{name}.txt").read_text().splitlines()


@pytest.mark.parametrize("option", ["encoder", "context", "flow_upsampling"])
def test_unknown_value_of_an_option(option):
    with pytest.raises(ValueError, match=f"SFNet has no {option} 'other'; choose"):
        models.create("sfnet_resnet18", 19, **{option: "other"})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sfnet_df1", {"fam_levels": (2,)}, r"no fam_levels \(2,\); choose from 0, 1"),
        ("sfnet_df1", {"dilated": True}, "cannot be dilated; set dilated=False"),
        ("sfnet_shufflenet", {"dilated": True}, "cannot be dilated"),
        ("sfnet_df2", {"ceil_mode": True}, "no max pooling; set ceil_mode=False"),
    ],
)
def test_options_that_do_not_fit(name, options, message):
    with pytest.raises(ValueError, match=message):
        models.create(name, 19, **options)

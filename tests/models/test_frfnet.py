"""FRFNet against the figures its paper prints, and against sums done by hand."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import check_inference, check_training, random_variables

from eseg_jax import models
from eseg_jax.models import cost, frfnet
from eseg_jax.models.frfnet import (
    DCT_FREQUENCIES,
    ECA,
    MSC,
    DualAttention,
    GroupedConv,
    Variant,
    dct_basis,
    fuse,
)
from eseg_jax.models.layers import PYTORCH
from eseg_jax.trees import flatten_names

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"

count = functools.cache(cost.count)


def giga(macs: float) -> str:
    return f"{macs / 1e9:.3f}"


def image(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize(
    ("name", "num_classes", "deployed", "with_heads"),
    [
        ("frfnet", 19, 3_881_119, 4_031_301),
        ("frfnet", 11, 3_880_599, 4_029_741),
        ("frfnet_slim", 19, 3_277_631, 3_427_813),
        ("frfnet_slim", 11, 3_277_111, 3_426_253),
        ("frfnet_danet", 19, 3_914_019, 4_064_201),
        ("frfnet_danet_slim", 19, 3_310_531, 3_460_713),
    ],
)
def test_parameters(name, num_classes, deployed, with_heads):
    size = (64, 64)
    assert count(name, size, num_classes, aux_heads=False).parameters == deployed
    assert count(name, size, num_classes).parameters == with_heads


def test_the_printed_parameters_are_those_of_camvid_with_heads():
    counted = count("frfnet", (64, 64), 11)
    printed = models.info("frfnet").params_m
    assert counted.parameters / 1e6 == pytest.approx(printed, rel=3e-3)


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("frfnet", "16.095"),
        ("frfnet_slim", "11.300"),
        ("frfnet_danet", "16.142"),
        ("frfnet_danet_slim", "11.347"),
    ],
)
def test_multiply_adds(name, macs):
    counted = count(name)
    assert counted.size == (512, 1024)
    assert giga(counted.macs) == macs
    assert counted.macs / 1e9 == pytest.approx(models.info(name).flops_g, rel=9e-3)


@pytest.mark.parametrize(
    ("name", "deployed", "training"),
    [("frfnet", "5.337", "5.589"), ("frfnet_slim", "3.751", "4.004")],
)
def test_multiply_adds_on_camvid(name, deployed, training):
    """360x480 is 90x120, 45x60, 23x30 and 12x15 at strides 4 to 32."""
    assert giga(count(name, (360, 480), 11).macs) == deployed
    trained = count(name, (360, 480), 11, training=True)
    assert giga(trained.macs) == training
    # The heads read strides 16 and 8.
    heads = (9 * 128 * 64 + 64 * 11) * (23 * 30 + 45 * 60)
    assert trained.macs - count(name, (360, 480), 11).macs == heads


@pytest.mark.parametrize(
    ("options", "gates"),
    [
        ({"attention": "none"}, {"ffm": 2, "sfm": 1}),
        ({"attention": "none", "ffm": "strict"}, {"ffm": 2, "sfm": 1}),
        ({"attention": "none", "ffm": "sum"}, {"ffm": 0, "sfm": 1}),
        ({"attention": "none", "sfm": False}, {"ffm": 2, "sfm": 0}),
        ({"attention": "fca", "ffm": "sum", "sfm": False}, {"ffm": 0, "sfm": 0}),
    ],
)
def test_the_ablations_switch_their_gates(options, gates, monkeypatch):
    seen, sigmoid = [], frfnet.nn.sigmoid

    def noting(x):
        seen.append(x.shape)
        return sigmoid(x)

    monkeypatch.setattr(frfnet.nn, "sigmoid", noting)
    model = models.create("frfnet", 3, **options)
    variables = jax.eval_shape(
        functools.partial(model.init, train=False),
        jax.random.key(0),
        image(1, 64, 96, 3),
    )
    seen.clear()
    jax.eval_shape(
        functools.partial(model.apply, train=False), variables, image(1, 64, 96, 3)
    )
    # At strides 8 and 4; the attention's have one value a channel.
    assert seen.count((1, 8, 12, 128)) == gates["ffm"]
    assert seen.count((1, 16, 24, 112)) == gates["sfm"]


def test_the_ablation_adds_no_weights_but_the_attention():
    names = ("frfnet_baseline", "frfnet_msc", "frfnet_msc_ffm", "frfnet")
    baseline, *others = (count(name, (64, 64), 11).parameters for name in names)
    # Each MSC: 8 * 32 + 32, twice 32 * 32 + 32, 96 * 8, 8 * 128.
    assert others == [baseline + 2 * 4192] * 3
    # FcaNet: 128 * 8, 8 * 128.
    fca = count("frfnet", (64, 64), 11, attention="fca").parameters
    assert fca == baseline + 2 * 2048


@pytest.mark.parametrize(
    ("size", "logits", "aux"),
    [
        ((720, 960), (180, 240), {"p4": (45, 60), "p3": (90, 120)}),
        ((360, 480), (90, 120), {"p4": (23, 30), "p3": (45, 60)}),
        ((97, 161), (25, 41), {"p4": (7, 11), "p3": (13, 21)}),
    ],
)
def test_sizes_not_divisible_by_32(size, logits, aux):
    model = models.create("frfnet", 11)
    outputs, _ = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=True),
        image(2, *size, 3),
    )
    assert outputs["logits"].shape == (2, *logits, 11)
    assert {name: x.shape for name, x in outputs["aux"].items()} == {
        name: (2, *shape, 11) for name, shape in aux.items()
    }


def test_runs_at_an_odd_size_and_leaves_the_statistics_alone():
    check_inference(models.create("frfnet", 3), (97, 161), (25, 41, 3))


@pytest.mark.parametrize(
    "name",
    [
        "frfnet",
        pytest.param("frfnet_slim", marks=pytest.mark.slow),
        pytest.param("frfnet_danet", marks=pytest.mark.slow),
        pytest.param("frfnet_baseline", marks=pytest.mark.slow),
    ],
)
def test_training_moves_every_parameter_and_statistic(name):
    check_training(models.create(name, 3), batches=3)


def test_heads_have_parameters_whenever_they_are_asked_for():
    def tops(train, **options):
        model = models.create("frfnet", 3, **options)
        outputs, variables = jax.eval_shape(
            lambda x: model.init_with_output(jax.random.key(0), x, train=train),
            image(1, 64, 64, 3),
        )
        return set(outputs["aux"]), {x for x in variables["params"] if "aux" in x}

    heads = {"aux_p4", "aux_p3"}
    assert tops(train=True) == ({"p4", "p3"}, heads)
    assert tops(train=False) == (set(), heads)
    assert tops(train=True, aux_heads=False) == (set(), set())


@pytest.mark.parametrize("attention", ["msc", "fca", "danet"])
def test_bfloat16_computes_between_float32_parameters_and_logits(attention):
    model = models.create("frfnet", 3, jnp.bfloat16, attention=attention)
    parts = ("attention_5", "attention_4", "ffm_1x1", "dam_1")
    outputs, variables = jax.eval_shape(
        lambda x: model.init_with_output(
            jax.random.key(0),
            x,
            train=True,
            capture_intermediates=lambda module, _: module.name in parts,
            mutable=["params", "batch_stats", "intermediates"],
        ),
        image(1, 64, 64, 3),
    )
    inner = jax.tree.leaves(variables.pop("intermediates"))
    assert len(inner) == len(parts)
    assert {x.dtype for x in inner} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves([outputs, variables])} == {
        jnp.dtype("float32")
    }


def test_dct_basis():
    assert len(set(DCT_FREQUENCIES)) == 16
    basis = dct_basis(32)
    assert basis.shape == (1, 7, 7, 32)
    assert basis.dtype == np.float32
    # Two channels for each frequency: 0 and 1 have (0, 0), which is 1 / 7.
    np.testing.assert_allclose(basis[0, ..., :2], np.full((7, 7, 2), 1 / 7), rtol=1e-6)
    # (6, 0) at row 0: sqrt(2) / 7 * cos(3 pi / 7), whatever the column.
    np.testing.assert_allclose(basis[0, 0, :, 4], np.full(7, 0.044956), rtol=1e-4)
    # (0, 5) at column 1: sqrt(2) / 7 * cos(15 pi / 14), whatever the row.
    np.testing.assert_allclose(basis[0, :, 1, 7], np.full(7, -0.196965), rtol=1e-4)
    # The maps are orthonormal.
    maps = dct_basis(16).reshape(49, 16)
    np.testing.assert_allclose(maps.T @ maps, np.eye(16), atol=1e-6)


def test_msc_against_loops():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 14, 7, 128)).astype(np.float32)
    layer = MSC(PYTORCH)
    variables = random_variables(layer, image(*x.shape))
    p = variables["params"]
    a = np.zeros((14, 7, 32))
    for out in range(32):  # 16 groups of 8 inputs and 2 outputs
        group = x[0, ..., 8 * (out // 2) : 8 * (out // 2) + 8]
        a[..., out] = group @ p["part_1"]["kernel"][0, 0, :, out]
    a += p["part_1"]["bias"]
    b = a @ p["part_2"]["kernel"][0, 0] + p["part_2"]["bias"]
    c = b @ p["part_3"]["kernel"][0, 0] + p["part_3"]["bias"]
    # 14 rows in 7 bins of two.
    a, b, c = (y.reshape(7, 2, 7, 32).mean(axis=1) for y in (a, b, c))
    w = dct_basis(32)[0]
    y0 = w * a
    y1 = w * (b + y0)
    y2 = w * (c + y1)
    spectrum = np.concatenate([y.sum(axis=(0, 1)) for y in (y0, y1, y2)])
    hidden = np.maximum(spectrum @ p["squeeze"]["kernel"][0, 0], 0)
    gate = 1 / (1 + np.exp(-hidden @ p["excite"]["kernel"][0, 0]))
    assert gate.std() > 1e-3
    np.testing.assert_allclose(
        layer.apply(variables, x), x * gate, rtol=1e-4, atol=1e-5
    )


def test_grouped_convolution_is_that_of_the_library():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 4, 12)).astype(np.float32)
    layer = GroupedConv(6, PYTORCH, groups=3)
    variables = random_variables(layer, image(*x.shape))
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    expected = jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=3,
    )
    np.testing.assert_allclose(
        layer.apply(variables, x),
        expected + bias.reshape(1, 1, 1, 6),
        rtol=1e-5,
        atol=1e-6,
    )


# sigmoid: 0 -> 0.5, 2 -> 0.880797, 3 -> 0.952574, -1 -> 0.268941.
@pytest.mark.parametrize(
    ("context", "detail", "gate", "strict"),
    [
        (2.0, 0.0, 2.0, 0.0),  # 0.38 apart: below the threshold
        (3.0, 0.0, 3 * 1.952574, 3 * 0.952574),  # 0.45 apart
        (-1.0, 3.0, -1 + 3 * 1.952574, 3 * 0.952574),
        (1.0, 1.0, 2.0, 0.0),
    ],
)
def test_fusion_by_difference(context, detail, gate, strict):
    def fused(ffm):
        x, y = (jnp.full((1, 1, 1, 1), value) for value in (context, detail))
        return fuse(x, y, Variant(ffm=ffm)).item()

    assert fused("gate") == pytest.approx(gate, rel=1e-6)
    assert fused("strict") == pytest.approx(strict, rel=1e-6)
    assert fused("sum") == context + detail


def test_fusion_passes_gradients_to_both_sides():
    variant = Variant()
    grads = jax.grad(lambda x, y: fuse(x, y, variant), argnums=(0, 1))(3.0, 0.0)
    # d/dx x (1 + s) = 1 + s + x s (1 - s); the comparison adds nothing.
    s = 0.952574
    assert grads[0] == pytest.approx(1 + s + 3 * s * (1 - s), rel=1e-5)
    assert grads[1] == 1.0


def test_channel_gate_convolves_the_means():
    x = jnp.array([[1.0, 2.0, 4.0], [3.0, 2.0, 0.0]]).reshape(1, 2, 1, 3)  # means 2
    kernel = np.array([1.0, 0.5, -1.0], np.float32).reshape(3, 1, 1)
    y = ECA(PYTORCH).apply({"params": {"kernel": kernel}}, x)
    # Neighbours outside are zero: 1 - 2, 2 + 1 - 2, 2 + 1.
    gate = 1 / (1 + np.exp(-np.array([-1.0, 1.0, 3.0])))
    np.testing.assert_allclose(y, np.asarray(x) * gate.reshape(1, 1, 1, 3), rtol=1e-6)


def test_dual_attention_against_matrices():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 2, 3, 16)).astype(np.float32)
    layer = DualAttention(PYTORCH)
    variables = random_variables(layer, image(*x.shape))
    p, flat = variables["params"], x.reshape(6, 16)

    def project(name):
        return flat @ p[name]["kernel"][0, 0] + p[name]["bias"]

    def softmax(scores):
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return scores / scores.sum(axis=-1, keepdims=True)

    position = softmax(project("query") @ project("key").T) @ project("value")
    alike = flat.T @ flat
    channel = (softmax(-alike) @ flat.T).T
    p["position_gamma"], p["channel_gamma"] = np.float32(0.5), np.float32(-2.0)
    expected = 2 * flat + 0.5 * position - 2.0 * channel
    np.testing.assert_allclose(
        layer.apply(variables, x).reshape(6, 16), expected, rtol=1e-4, atol=1e-5
    )


def test_names_and_shapes_are_those_of_the_golden_file():
    """Checkpoints hold these names: a change needs a converter and a new file."""
    shapes = jax.eval_shape(
        functools.partial(models.create("frfnet", 19).init, train=False),
        jax.random.key(0),
        image(1, 64, 64, 3),
    )
    lines = sorted(f"{name} {x.shape}" for name, x in flatten_names(shapes).items())
    assert lines == (GOLDEN / "frfnet.txt").read_text().splitlines()


@pytest.mark.parametrize("option", ["attention", "ffm"])
def test_unknown_value_of_an_option(option):
    with pytest.raises(ValueError, match=f"FRFNet has no {option} 'other'; choose"):
        models.create("frfnet", 19, **{option: "other"})

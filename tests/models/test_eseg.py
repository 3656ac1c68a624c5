"""ESeg against the figures its paper prints, and against sums done by hand."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import check_inference, check_training, shapes_of

from eseg_jax import models
from eseg_jax.models import cost
from eseg_jax.models.eseg import Fusion, LevelSum
from eseg_jax.models.layers import DropConnect
from eseg_jax.trees import flatten_names

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"

# (parameters, batch statistics, multiply-adds in G at 1024x2048).
COUNTS = {
    "eseg_s": (6_860_547, 71_968, 33.8390),
    "eseg_m": (19_994_125, 151_952, 110.3333),
    "eseg_l": (70_496_247, 359_168, 339.7651),
    "eseg_s_p2_p5": (6_408_111, 65_056, 33.6810),
    "eseg_s_p2_p7": (6_634_329, 68_512, 33.8297),
    "eseg_lite_s": (3_590_615, 9_456, 17.1417),
    "eseg_lite_m": (9_737_580, 17_872, 42.7121),
    "eseg_lite_l": (28_394_353, 29_984, 114.8553),
}

# The smallest networks of each kind: one block a stage, 8 channels wherever possible.
TINY = {"encoder": "custom", "width": 0.25, "depth": 0.1, "features": 8, "repeats": 1}

count = functools.cache(cost.count)


def tiny(name: str = "eseg_s", dtype=jnp.float32, **options):
    return models.create(name, 3, dtype, **{**TINY, **options})


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_multiply_adds(name):
    parameters, batch_stats, macs = COUNTS[name]
    counted = count(name)
    assert counted.size == (1024, 2048)
    assert counted.parameters == parameters
    assert counted.batch_stats == batch_stats
    assert round(counted.macs / 1e9, 4) == macs
    assert counted.logits_stride == (8 if "lite" in name else 4)
    assert sum(p for p, _ in counted.parts.values()) == parameters
    assert sum(m for _, m in counted.parts.values()) == counted.macs


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("eseg_s", "34.5"),
        ("eseg_m", "112"),
        ("eseg_l", "343"),
        ("eseg_s_p2_p5", "34.3"),
        ("eseg_s_p2_p7", "34.5"),
        ("eseg_s_fpn_p2_p5", "39.8"),
        ("eseg_s_fpn_p2_p9", "40.0"),
        ("eseg_lite_s", "17"),
    ],
)
def test_flops_as_the_paper_prints_them(name, printed):
    flops = count(name).paper_flops / 1e9
    decimals = len(printed.partition(".")[2])
    assert f"{flops:.{decimals}f}" == printed
    assert models.info(name).flops_g == float(printed)
    if name != "eseg_lite_s":  # two digits say no more than 3 %
        assert flops == pytest.approx(float(printed), rel=2e-3)


def test_flops_with_resnet_encoder():
    assert count("eseg_resnet50").paper_flops == pytest.approx(188.0e9, rel=2e-3)


@pytest.mark.parametrize("name", ["eseg_s", "eseg_m", "eseg_l", "eseg_s_p2_p7"])
def test_parameters_as_the_paper_prints_them(name):
    assert round(count(name).parameters / 1e6, 1) == models.info(name).params_m


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("eseg_s", 6_101_024, 22.872),
        ("eseg_m", 16_742_216, 61.003),
        ("eseg_l", 62_143_440, 212.131),
    ],
)
def test_encoder_has_the_parameters_of_efficientnet_b1_b4_b7(name, parameters, macs):
    assert count(name).parts["encoder"][0] == parameters
    assert round(count(name).parts["encoder"][1] / 1e9, 3) == macs


def test_encoder_has_the_parameters_of_efficientnet_b0():
    # B0 has 5,288,548; its head convolution and classifier, which go, have
    # 320 * 1280 + 2 * 1280 and 1280 * 1000 + 1000.
    counted = count("eseg_s", (64, 64), encoder="b0", repeats=1, max_level=5)
    assert counted.parts["encoder"][0] == 5_288_548 - 412_160 - 1_281_000


def test_class_count_and_size():
    # The classifier has 96 weights and a bias for each class.
    ade = count("eseg_s", (520, 520), 150)
    assert ade.parameters == 6_860_547 + (150 - 19) * 97
    assert round(ade.macs / 1e9, 3) == 4.713


def test_an_option_is_the_named_ablation():
    assert count("eseg_s", (64, 64), max_level=7).parameters == 6_634_329


def test_levels_of_odd_sizes():
    model = tiny()

    def forward(images):
        return model.init_with_output(
            jax.random.key(0),
            images,
            train=False,
            capture_intermediates=lambda module, _: (
                module.path[:1] in [(f"lateral_p{level}",) for level in range(10)]
                and len(module.path) == 1
            ),
            mutable=["params", "batch_stats", "intermediates"],
        )

    image = jax.ShapeDtypeStruct((1, 520, 520, 3), jnp.float32)
    outputs, variables = jax.eval_shape(forward, image)
    sizes = [
        variables["intermediates"][f"lateral_p{level}"]["__call__"][0].shape[1:]
        for level in range(2, 10)
    ]
    edges = (130, 65, 33, 17, 9, 5, 3, 2)
    assert sizes == [(edge, edge, 8) for edge in edges]
    assert outputs["logits"].shape == (1, 130, 130, 3)


def test_runs_at_an_odd_size_and_leaves_the_statistics_alone():
    check_inference(tiny("eseg_lite_s", max_level=5), (41, 75), (6, 10, 3))


def test_equal_weights_give_the_mean_of_levels():
    rng = np.random.default_rng(0)
    finest = rng.normal(size=(2, 8, 6, 3)).astype(np.float32)
    # One pixel and one row of a coarser level are constant however they are enlarged.
    pixel = rng.normal(size=(2, 1, 1, 3)).astype(np.float32)
    levels = {2: finest, 3: np.full((2, 4, 3, 3), 0.5, np.float32), 5: pixel}
    levels = jax.tree.map(jnp.asarray, levels)
    fused, variables = LevelSum().init_with_output(jax.random.key(0), levels)
    np.testing.assert_array_equal(variables["params"]["weights"], np.ones(3))
    np.testing.assert_allclose(fused, (finest + 0.5 + pixel) / 3, rtol=1e-5, atol=1e-6)


def test_level_weights_are_a_softmax():
    levels = {3: jnp.full((1, 4, 4, 1), 8.0), 4: jnp.full((1, 2, 2, 1), -4.0)}
    weights = jnp.log(jnp.array([1.0, 3.0]))  # softmax: 1/4, 3/4
    fused = LevelSum().apply({"params": {"weights": weights}}, levels)
    np.testing.assert_allclose(
        fused, np.full((1, 4, 4, 1), 8 / 4 - 4 * 3 / 4), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("kind", "weights", "expected"),
    [
        ("fast", [1.0, 3.0], (1 * 2 + 3 * 6) / 4.0001),
        ("fast", [1.0, -3.0], 2 / 1.0001),  # a negative weight leaves its level out
        ("softmax", [0.0, np.log(3.0)], (2 + 3 * 6) / 4),
    ],
)
def test_fusion_of_a_node(kind, weights, expected):
    features = (jnp.full((1, 2, 2, 1), 2.0), jnp.full((1, 2, 2, 1), 6.0))
    variables = {"params": {"weights": jnp.array(weights)}}
    fused = Fusion(kind).apply(variables, features)
    np.testing.assert_allclose(fused, np.full((1, 2, 2, 1), expected), rtol=1e-6)


def test_drop_connect_drops_whole_images():
    x = jnp.ones((64, 2, 2, 3))
    layer = DropConnect(0.75)
    y = layer.apply({}, x, True, rngs={"drop_connect": jax.random.key(0)})
    kept = np.asarray(y[:, 0, 0, 0]) > 0
    np.testing.assert_array_equal(y, np.where(kept, 4.0, 0.0)[:, None, None, None] * x)
    assert 6 <= kept.sum() <= 26  # 16 expected, 3 standard deviations
    np.testing.assert_array_equal(layer.apply({}, x, False), x)


@pytest.mark.parametrize("name", ["eseg_s", "eseg_lite_s"])
def test_training_moves_every_parameter_and_statistic(name):
    check_training(tiny(name))


def test_bfloat16_computes_between_float32_parameters_and_logits():
    model = tiny(dtype=jnp.bfloat16)

    def forward(images):
        return model.init_with_output(
            jax.random.key(0),
            images,
            train=False,
            capture_intermediates=lambda module, _: module.name == "head",
            mutable=["params", "batch_stats", "intermediates"],
        )

    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    outputs, variables = jax.eval_shape(forward, image)
    (head,) = variables.pop("intermediates")["head"]["__call__"]
    assert head.dtype == jnp.bfloat16
    assert outputs["logits"].dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", ["eseg_s", "eseg_lite_s"])
def test_names_and_shapes_are_those_of_the_golden_file(name):
    """Checkpoints hold these names: a change needs a converter and a new file."""
    model = models.create(name, 19)
    shapes = flatten_names(shapes_of(model))
    lines = sorted(f"{name} {leaf.shape}" for name, leaf in shapes.items())
    assert lines == (GOLDEN / f"{name}.txt").read_text().splitlines()


def test_every_name_has_facts_and_builds():
    assert len(set(models.names())) == len(models.names())
    for name in models.names():
        assert models.info(name).source
        assert models.create(name, 2) is not None


@pytest.mark.parametrize("call", [models.info, lambda name: models.create(name, 2)])
def test_unknown_name(call):
    with pytest.raises(ValueError, match="no model 'eseg_sm'; did you mean eseg_s"):
        call("eseg_sm")
    with pytest.raises(ValueError, match=r"no model 'xyz'; see names\(\)"):
        call("xyz")


def test_unknown_option():
    with pytest.raises(ValueError, match="eseg_s has no option levels; .*max_level"):
        models.create("eseg_s", 19, levels=7)


@pytest.mark.parametrize("option", ["encoder", "decoder", "fusion"])
def test_unknown_value_of_an_option(option):
    with pytest.raises(ValueError, match=f"ESeg has no {option} 'other'; choose"):
        count("eseg_s", (32, 32), **{option: "other"})

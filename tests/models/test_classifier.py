"""Backbones under a classifier, and which variable each starts in a network."""

import functools

import jax
import jax.numpy as jnp
import pytest

from eseg_jax import models
from eseg_jax.models.classifier import source_name
from eseg_jax.trees import flatten_names


@functools.cache
def shapes_of(name, num_classes, create=models.create):
    """{"params": {name: shape}, "batch_stats": …} of a network."""
    model = create(name, num_classes)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    init = functools.partial(model.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), images)
    return {
        kind: {name: x.shape for name, x in flatten_names(tree).items()}
        for kind, tree in variables.items()
    }


def fresh(name):
    """What of a network no classifier starts: its parts, the outermost modules."""
    parts = shapes_of(name, 19)["params"]
    return {part.split("/")[0] for part in parts if source_name(part) is None}


# One of each backbone and width.
@pytest.mark.parametrize(
    "name",
    [
        "dfanet_a",
        "eseg_lite_s",
        "frfnet",
        "sfnet_df1",
        "sfnet_resnet18",
        "sfnet_shufflenet",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "dfanet_b_x2",
                "eseg_s",
                "eseg_lite_l",
                "eseg_resnet50",
                "frfnet_slim",
                "sfnet_df2",
                "sfnet_resnet50",
                "sfnet_resnet101_official",
            )
        ),
    ],
)
def test_every_variable_of_a_backbone_has_its_start(name):
    network = shapes_of(name, 19)
    classifier = shapes_of(name, 1000, models.create_classifier)
    used = set()
    for kind, names in network.items():
        for target, shape in names.items():
            source = source_name(target)
            if source is not None:
                assert classifier[kind][source] == shape
                used.add(source)
    # Nothing that was trained is lost but what only classifies.
    left = {*classifier["params"], *classifier["batch_stats"]} - used
    assert {part.split("/")[0] for part in left} <= {"classifier", "head"}


def test_all_that_starts_from_nothing():
    assert fresh("eseg_lite_s") == {
        *(f"lateral_p{level}" for level in range(3, 10)),
        *("bifpn_0", "level_sum", "head", "classifier"),
    }
    # The first blocks of sub-networks 2 and 3 read wider maps; the attentions' second
    # layers are DFANet's own.
    assert fresh("dfanet_a") == {
        *("attention_1", "attention_2", "attention_3"),
        *("backbone_2", "backbone_3", "hl", "ll", "classifier"),
    }


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("backbone_1/enc2/blocks_0/shortcut/conv/kernel", "same"),
        ("backbone_1/conv1/conv/kernel", "same"),
        ("backbone_3/enc2/blocks_0/shortcut/conv/kernel", None),
        ("backbone_2/enc4/blocks_0/conv1/depthwise/bn/mean", None),
        (
            "backbone_3/enc4/blocks_0/conv2/pointwise/bn/mean",
            "backbone_1/enc4/blocks_0/conv2/pointwise/bn/mean",
        ),
        (
            "backbone_2/enc3/blocks_5/conv1/depthwise/conv/kernel",
            "backbone_1/enc3/blocks_5/conv1/depthwise/conv/kernel",
        ),
        ("attention_2/fc/kernel", "classifier/kernel"),
        ("attention_2/reduce/kernel", None),
        ("encoder/stem/conv/kernel", "same"),
        ("backbone/stem/conv/conv/kernel", "same"),
        ("classifier/kernel", None),
    ],
)
def test_sources(name, source):
    assert source_name(name) == (name if source == "same" else source)


def test_efficientnet_has_the_head_of_its_width():
    # 1280 * 0.4 = 512, from the 128 features of stage 7.
    lite = shapes_of("eseg_lite_s", 1000, models.create_classifier)["params"]
    assert lite["head/conv/kernel"] == (1, 1, 128, 512)
    assert lite["classifier/kernel"] == (1, 1, 512, 1000)


def test_logits_are_those_of_the_mean_feature():
    model = models.create_classifier("sfnet_df1", 7, jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 97, 161, 3), jnp.float32)
    variables = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), images
    )
    for train in (False, True):
        outputs = jax.eval_shape(
            functools.partial(model.apply, train=train, mutable=["batch_stats"]),
            variables,
            images,
        )[0]
        assert outputs["logits"].shape == (2, 7)
        assert outputs["logits"].dtype == jnp.float32
        assert outputs["aux"] == {}


def test_unknown_names_and_options():
    with pytest.raises(ValueError, match="did you mean dfanet_a"):
        models.create_classifier("dfanet_aa", 10)
    with pytest.raises(ValueError, match="has no option depth; its options are"):
        models.create_classifier("dfanet_a", 10, depth=2)

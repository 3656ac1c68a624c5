"""Folded variables give the logits that they were folded from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eseg_jax import models
from eseg_jax.models.folding import fold
from eseg_jax.models.layers import PYTORCH, ConvBN
from eseg_jax.state import init_variables
from eseg_jax.trees import flatten_names, map_with_names

ESEG = {
    "encoder": "custom",
    "width": 0.25,
    "depth": 0.1,
    "features": 8,
    "repeats": 1,
    "max_level": 6,
}
SFNET = {"encoder": "df1", "features": 8}
FRFNET = {"stem": 8}


@functools.cache
def network(name, **options):
    """A network with weights and statistics such as training leaves behind."""
    model = models.create(name, 3, **options)
    shapes = jax.eval_shape(lambda: init_variables(model, jax.random.key(0)))
    random = np.random.default_rng(0)

    def trained(name, leaf):
        last = name.split("/")[-1]
        if last == "kernel":
            fan_in = max(1, leaf.size // leaf.shape[-1])
            return random.normal(0, (2 / fan_in) ** 0.5, leaf.shape).astype("f")
        low, high = (0.5, 1.5) if last in ("scale", "var", "weights") else (-0.5, 0.5)
        return random.uniform(low, high, leaf.shape).astype("f")

    return model, map_with_names(trained, shapes)


def logits(model, variables, images):
    apply = jax.jit(functools.partial(model.apply, train=False))
    return np.asarray(apply(variables, images)["logits"])


def images(size=(64, 64)):
    return np.random.default_rng(1).normal(size=(1, *size, 3)).astype("f")


def check(name, **options):
    model, variables = network(name, **options)
    folded = fold(model, variables)
    assert set(folded) == {"params"}
    before, after = (logits(model, v, images()) for v in (variables, folded))
    assert np.abs(before).max() > 0.1
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-4 * np.abs(before).max())
    return flatten_names(variables["params"]), flatten_names(folded["params"])


@pytest.mark.parametrize(
    "options",
    [
        ESEG,
        ESEG | {"fused": True, "base_level": 3, "fusion": "softmax"},
    ],
    ids=["swish", "fused_softmax"],
)
def test_eseg(options):
    before, after = check("eseg_s", **options)
    assert not any("/bn/" in name or name.endswith("weights") for name in after)
    shares = [value for name, value in after.items() if name.endswith("normalised")]
    assert len(shares) == sum(name.endswith("weights") for name in before)
    for share in shares:
        np.testing.assert_allclose(share.sum(), 1, atol=1e-3)


def test_sfnet_without_its_training_heads():
    before, after = check("sfnet_df1", **SFNET)
    assert any(name.startswith("dsn_") for name in before)
    assert not any(name.startswith("dsn_") for name in after)


def test_dfanet():
    check("dfanet_b_x1")


def test_frfnet_without_its_training_heads():
    before, after = check("frfnet", **FRFNET)
    assert any(name.startswith("aux_") for name in before)
    assert not any(name.startswith("aux_") for name in after)


def test_factor_and_shift_by_hand():
    # (x * k + 1 - mean) * scale / sqrt(var + eps) + bias, where scale / sqrt(…) is 2.
    variables = {
        "params": {
            "conv": {"kernel": jnp.full((1, 1, 3, 1), 3.0), "bias": jnp.array([1.0])},
            "bn": {"scale": jnp.array([4.0]), "bias": jnp.array([7.0])},
        },
        "batch_stats": {"bn": {"mean": jnp.array([5.0]), "var": jnp.array([4 - 1e-5])}},
    }
    folded = fold(ConvBN(1, PYTORCH, use_bias=True), variables)["params"]
    assert set(folded) == {"conv"}
    np.testing.assert_allclose(folded["conv"]["kernel"].ravel(), [6, 6, 6])
    np.testing.assert_allclose(folded["conv"]["bias"], [-1])


def test_training_is_refused():
    model, variables = network("eseg_s", **ESEG)
    folded = fold(model, variables)
    with pytest.raises(ValueError, match="no batch normalisation left to train"):
        model.apply(folded, images(), train=True)

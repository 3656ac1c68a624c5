"""Rematerialisation: the same parameters and gradients from less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import op_checks
import pytest

from eseg_jax import models
from eseg_jax.trees import flatten_names

TINY = {"width": 0.1, "depth": 0.1, "features": 8, "max_level": 5}
NETWORKS = {
    "eseg_lite_s": TINY,
    "eseg_s_fpn_p2_p5": {"encoder": "custom", **TINY},
    "eseg_resnet50": {"features": 8, "max_level": 5},
    "dfanet_b": {},
    "frfnet_slim": {},
    "sfnet_df1": {},
    "sfnet_shufflenet": {},
}


def _gradient(name, remat, options, size=64):
    """The gradient of a random sum of the outputs, ready to compile, and its inputs."""
    model = models.create(name, 3, remat=remat, **options)
    images = op_checks.normal(2, size, size, 3)

    def init():
        return model.init(jax.random.key(0), images, train=False)

    def loss(variables, images):
        outputs, updates = model.apply(
            variables,
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={
                k: jax.random.key(i) for i, k in enumerate(("drop_connect", "dropout"))
            },
        )
        total = sum(
            jnp.sum(y * jnp.cos(jnp.arange(y.size)).reshape(y.shape))
            for y in jax.tree.leaves(outputs)
        )
        return total, updates

    return jax.jit(jax.value_and_grad(loss, has_aux=True)), init, images


def _check(name, remat, options):
    plain, init, images = _gradient(name, "none", options)
    saving, *_ = _gradient(name, remat, options)
    variables = jax.jit(init)()
    (value, updates), gradients = plain(variables, images)
    (value2, updates2), gradients2 = saving(variables, images)
    np.testing.assert_allclose(value2, value, rtol=1e-6)
    for a, b in (updates, updates2), (gradients["params"], gradients2["params"]):
        scale = max(np.abs(x).max() for x in jax.tree.leaves(a))
        for name, x in flatten_names(a).items():
            np.testing.assert_allclose(
                flatten_names(b)[name] / scale, x / scale, 0, 1e-6, err_msg=name
            )


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_keep_their_names(name):
    (_, plain, _), (saving, init, images) = (
        _gradient(name, remat, NETWORKS[name]) for remat in ("none", "blocks")
    )
    variables = jax.eval_shape(init)
    assert flatten_names(variables) == flatten_names(jax.eval_shape(plain))
    assert "remat" in str(saving.trace(variables, images).jaxpr)


@pytest.mark.parametrize("remat", ["blocks", "convolutions"])
def test_gradients_with_drop_connect(remat):
    _check("eseg_lite_s", remat, {**TINY, "drop_rate": 0.5})


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["blocks", "convolutions"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients(name, remat):
    _check(name, remat, NETWORKS[name])


def _temporary(remat, options):
    gradient, init, _ = _gradient("eseg_lite_s", remat, options, 256)
    variables = jax.eval_shape(init)
    images = jax.ShapeDtypeStruct((8, 256, 256, 3), jnp.float32)
    compiled = gradient.lower(variables, images).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory():
    everything, convolutions, inputs = (
        _temporary(remat, TINY) for remat in ("none", "convolutions", "blocks")
    )
    assert inputs < convolutions < everything

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


def _loss(name, remat, options, size=64):
    """(A sum of the outputs with weights, a function; the initialiser; images)."""
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

    return loss, init, images


def _check(name, remat, options):
    (loss, init, images), (loss2, *_) = (
        _loss(name, which, options) for which in ("none", remat)
    )
    plain, saving = (
        jax.jit(jax.value_and_grad(f, has_aux=True)) for f in (loss, loss2)
    )
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


@pytest.mark.parametrize(
    "name", ["eseg_lite_s", "dfanet_b", "frfnet_slim", "sfnet_df1"]
)
def test_parameters_keep_their_names(name):
    (_, plain, _), (saving, init, images) = (
        _loss(name, remat, NETWORKS[name]) for remat in ("none", "blocks")
    )
    variables = jax.eval_shape(init)
    assert flatten_names(variables) == flatten_names(jax.eval_shape(plain))
    assert "remat" in str(
        jax.make_jaxpr(jax.grad(saving, has_aux=True))(variables, images)
    )


@pytest.mark.parametrize("remat", ["blocks", "convolutions"])
def test_gradients_with_drop_connect(remat):
    _check("eseg_lite_s", remat, {**TINY, "drop_rate": 0.5})


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["blocks", "convolutions"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients(name, remat):
    _check(name, remat, NETWORKS[name])


def _kept(remat):
    """Bytes between the forward and the backward pass, the inputs among them."""
    loss, init, images = _loss("eseg_lite_s", remat, TINY)
    variables = jax.eval_shape(init)
    pull = jax.eval_shape(
        lambda v: jax.vjp(lambda v: loss(v, images)[0], v)[1],
        variables,
    )
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pull))


def test_less_is_kept():
    everything, convolutions, inputs = map(_kept, ("none", "convolutions", "blocks"))
    assert inputs < convolutions < everything

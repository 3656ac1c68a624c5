"""What the tests of every network share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from eseg_jax.trees import flatten_names, map_with_names

IMAGE = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)


def shapes_of(module, *inputs, **kwargs):
    """Shapes of its variables; without inputs those of a network."""
    if not inputs:
        inputs, kwargs = (IMAGE,), {"train": False}
    init = functools.partial(module.init, **kwargs)
    return jax.eval_shape(init, jax.random.key(0), *inputs)


def random_variables(module, *inputs, **kwargs):
    """Variables that no layer amplifies, without compiling the initialisers."""
    rng = np.random.default_rng(0)

    def fill(name, leaf):
        if name.endswith("kernel"):
            deviation = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return rng.normal(0, deviation, leaf.shape).astype(np.float32)
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

    return map_with_names(fill, shapes_of(module, *inputs, **kwargs))


def check_inference(model, size, logits):
    """It gives float32 logits of this shape alone, and leaves its statistics alone."""
    variables = random_variables(model)
    images = np.random.default_rng(1).normal(size=(1, *size, 3)).astype(np.float32)
    apply = functools.partial(model.apply, train=False, mutable=["batch_stats"])
    outputs, updates = jax.jit(apply)(variables, images)
    assert outputs["logits"].shape == (1, *logits)
    assert outputs["logits"].dtype == jnp.float32
    assert outputs["aux"] == {}
    assert jnp.all(jnp.isfinite(outputs["logits"]))
    jax.tree.map(
        np.testing.assert_array_equal, variables["batch_stats"], updates["batch_stats"]
    )


def check_training(model, batches=1):
    """Every parameter has a gradient, of one of the batches; every statistic moves."""
    variables = random_variables(model)
    target = jnp.arange(3.0).reshape(1, 1, 1, 3)

    @jax.jit
    def step(images):
        def loss(params):
            outputs, updates = model.apply(
                {**variables, "params": params},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={name: jax.random.key(1) for name in ("dropout", "drop_connect")},
            )
            logits = [outputs["logits"], *outputs["aux"].values()]
            return sum(jnp.mean((x - target) ** 2) for x in logits), updates

        return jax.grad(loss, has_aux=True)(variables["params"])

    still = set(flatten_names(variables["params"]))
    for seed in range(batches):
        rng = np.random.default_rng(seed)
        grads, updates = step(rng.normal(size=(2, 64, 96, 3)).astype(np.float32))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
        still -= {name for name, x in flatten_names(grads).items() if np.any(x)}
    assert still == set()
    before = flatten_names(variables["batch_stats"])
    after = flatten_names(updates["batch_stats"])
    assert [name for name in before if np.array_equal(before[name], after[name])] == []

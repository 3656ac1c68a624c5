"""The train step by hand: update, averages, accumulation, randomness."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eseg_jax import losses, state, steps


class _OneConv(nn.Module):
    """A classifier of single pixels, with or without batch normalisation."""

    norm: bool = False

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(3, (1, 1), name="conv")(images)
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.5, name="bn")(x)
        return {"logits": x, "aux": {}}


def _batch(n=4, seed=0):
    draw = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(draw.integers(0, 256, (n, 4, 4, 3)), jnp.uint8),
        "label": jnp.asarray(draw.integers(0, 3, (n, 4, 4)), jnp.uint8),
    }


def _step(model, *, accumulate_steps=1, loss=losses.segmentation_loss, tx=None):
    tx = tx or optax.sgd(0.5)
    step = steps.make_train_step(
        model,
        tx,
        loss,
        mean=(128.0,) * 3,
        std=(64.0,) * 3,
        seed=0,
        ema_decay=0.9,
        accumulate_steps=accumulate_steps,
    )
    return step, state.init_state(model, tx, jax.random.key(0))


def test_normalise_by_hand():
    images = jnp.asarray([[[[0, 128, 255]]]], jnp.uint8)
    out = steps.normalise(images, (0.0, 128.0, 127.0), (1.0, 2.0, 64.0))
    np.testing.assert_allclose(out[0, 0, 0], [0.0, 0.0, 2.0])


def test_gradient_step_and_first_average():
    step, before = _step(_OneConv())
    batch = _batch()

    def loss(params):
        images = steps.normalise(batch["image"], (128.0,) * 3, (64.0,) * 3)
        outputs = _OneConv().apply({"params": params}, images, train=True)
        return losses.segmentation_loss(outputs, batch["label"])[0]

    grads = jax.grad(loss)(before.params)
    after, scalars = step(before, batch)
    for new, old, grad, ema in zip(
        *map(jax.tree.leaves, (after.params, before.params, grads, after.ema_params)),
        strict=True,
    ):
        np.testing.assert_allclose(new, old - 0.5 * grad, rtol=1e-5, atol=1e-6)
        # The first step keeps min(0.9, 1 / 10) of the old average.
        np.testing.assert_allclose(ema, 0.1 * old + 0.9 * new, rtol=1e-5, atol=1e-6)
    assert int(after.step) == 1
    np.testing.assert_allclose(scalars["grad_norm"], optax.tree.norm(grads), rtol=1e-5)


def test_average_decay_is_capped():
    step, before = _step(_OneConv(), tx=optax.set_to_zero())
    before = before.replace(
        step=jnp.int32(1000), ema_params=jax.tree.map(jnp.zeros_like, before.params)
    )
    after, _ = step(before, _batch())
    np.testing.assert_allclose(
        after.ema_params["conv"]["kernel"],
        0.1 * before.params["conv"]["kernel"],
        rtol=1e-5,
    )


def test_accumulation_without_normalisation_is_the_whole_batch():
    whole, before = _step(_OneConv())
    parts, _ = _step(_OneConv(), accumulate_steps=2)
    after_whole, a = whole(before, _batch())
    after_parts, b = parts(before, _batch())
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-6)
    for x, y in zip(
        jax.tree.leaves(after_whole.params),
        jax.tree.leaves(after_parts.params),
        strict=True,
    ):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)


def test_accumulation_updates_statistics_once_for_each_micro_batch():
    step, before = _step(_OneConv(norm=True), accumulate_steps=2)
    batch = _batch()
    after, _ = step(before, batch)
    images = steps.normalise(batch["image"], (128.0,) * 3, (64.0,) * 3)
    kernel = before.params["conv"]["kernel"][0, 0]
    expected = jnp.zeros(3)
    for i in range(2):  # micro-batch i holds rows i, i + 2
        mean = jnp.mean(images[i::2] @ kernel, axis=(0, 1, 2))
        expected = 0.5 * expected + 0.5 * mean
    np.testing.assert_allclose(
        after.batch_stats["bn"]["mean"], expected, rtol=1e-5, atol=1e-6
    )


def test_all_pixels_ignored_leaves_parameters_alone():
    step, before = _step(_OneConv())
    batch = _batch()
    batch["label"] = jnp.full_like(batch["label"], 255)
    after, scalars = step(before, batch)
    assert float(scalars["loss"]) == 0.0
    for x, y in zip(
        jax.tree.leaves(after.params), jax.tree.leaves(before.params), strict=True
    ):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("finite", [True, False])
def test_an_update_that_is_not_finite_is_skipped(finite):
    model, tx = _OneConv(norm=True), optax.adam(0.5)

    def loss(outputs, labels):
        value, parts = losses.segmentation_loss(outputs, labels)
        return value * (1.0 if finite else jnp.nan), parts

    step = steps.make_train_step(
        model,
        tx,
        loss,
        mean=(128.0,) * 3,
        std=(64.0,) * 3,
        seed=0,
        ema_decay=0.9,
        skip_nonfinite=True,
    )
    before = state.init_state(model, tx, jax.random.key(0))
    after, scalars = step(before, _batch())
    assert float(scalars["nonfinite"]) == (0.0 if finite else 1.0)
    assert int(after.step) == 1  # the next step takes the next batch
    same = jax.tree.map(
        lambda x, y: bool(jnp.all(x == y)), after.replace(step=before.step), before
    )
    assert all(jax.tree.leaves(same)) != finite


def test_evaluation_counts_every_valid_pixel_once():
    model = _OneConv()
    variables = state.init_state(model, optax.sgd(0.1), jax.random.key(0)).variables(
        "raw"
    )
    step = steps.make_eval_step(model, mean=(0.0,) * 3, std=(1.0,) * 3, num_classes=3)
    batch = _batch()
    batch["label"] = batch["label"].at[1].set(255)
    counts = step(variables, batch)
    predictions = counts["prediction"]
    assert predictions.dtype == jnp.uint8 and predictions.shape == (4, 4, 4)
    expected = np.zeros((3, 3), int)
    for truth, guess in zip(
        np.ravel(batch["label"]), np.ravel(predictions), strict=True
    ):
        if truth != 255:
            expected[truth, guess] += 1
    np.testing.assert_array_equal(counts["confusion"], expected)
    hits, truth, predicted = np.sum(counts["per_image"], axis=0)
    np.testing.assert_array_equal(hits, expected.diagonal())
    np.testing.assert_array_equal(truth, expected.sum(axis=1))
    np.testing.assert_array_equal(predicted, expected.sum(axis=0))
    assert not np.any(counts["per_image"][1])


def test_unknown_weights_are_refused():
    made = state.init_state(_OneConv(), optax.sgd(0.1), jax.random.key(0))
    with pytest.raises(ValueError, match="ema or raw"):
        made.variables("mean")

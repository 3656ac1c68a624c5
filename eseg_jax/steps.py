"""The train and evaluation steps: pure functions of arrays, ready for `jax.jit`.

They know one device. With sharded inputs XLA makes batch normalisation, the loss and
the gradient those of the global batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eseg_jax import models, protocols, rng
from eseg_jax.metrics import (
    boundary_counts,
    boundary_radius,
    confusion_matrix,
    top_counts,
)
from eseg_jax.ops.most_likely import most_likely
from eseg_jax.ops.resize_inside import resize_inside
from eseg_jax.protocols import SINGLE, Protocol
from eseg_jax.state import TrainState

Batch = Mapping[str, jax.Array]
Loss = Callable[[Mapping, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


def normalise(images: jax.Array, mean, std) -> jax.Array:
    """uint8 RGB [n, h, w, 3] -> float32, zero mean and unit variance on average."""
    mean, std = (jnp.asarray(x, jnp.float32).reshape(1, 1, 1, 3) for x in (mean, std))
    return (images.astype(jnp.float32) - mean) / std


def make_train_step(
    model,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    *,
    mean,
    std,
    seed: int,
    ema_decay: float,
    accumulate_steps: int = 1,
    skip_nonfinite: bool = False,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Makes step(state, {"image", "label"}) -> (state, scalars).

    Args:
      model: a Linen module of `models.create`.
      optimizer: from `optimizer.make_optimizer`.
      loss: (outputs, labels) -> (scalar, parts), from `losses`.
      mean, std: of uint8 RGB, three numbers each.
      seed: root of the random streams; the stream of a step depends on both alone.
      ema_decay: kept share of the averages, min(ema_decay, (1 + t) / (10 + t)).
      accumulate_steps: micro-batches whose gradients are averaged. Each is normalised
        by its own batch statistics, mines its own hard pixels and updates the running
        statistics in turn: with batch normalisation, n micro-batches of b images are
        not one batch of n * b images.
      skip_nonfinite: whether a loss or gradient that is not finite leaves everything
        but the step as it was. The scalar "nonfinite" is 1 there, 0 elsewhere.
    """

    def loss_fn(params, batch_stats, images, labels, key):
        outputs, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            normalise(images, mean, std),
            train=True,
            mutable=["batch_stats"],
            rngs={
                name: jax.random.fold_in(key, i)
                for i, name in enumerate(("drop_connect", "dropout"))
            },
        )
        value, parts = loss(outputs, labels)
        return value, (updates.get("batch_stats", {}), parts)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def accumulated(params, batch_stats, images, labels, key):
        """Averages value, gradients and parts over strided micro-batches."""

        def add(carry, micro):
            batch_stats, total = carry
            images, labels, i = micro
            (value, (batch_stats, parts)), grads = grad_fn(
                params, batch_stats, images, labels, jax.random.fold_in(key, i)
            )
            total = jax.tree.map(jnp.add, total, (value, grads, parts))
            return (batch_stats, total), None

        # Micro-batch i takes rows i, i + n, …: every device keeps its own rows.
        def split(x):
            x = x.reshape(-1, accumulate_steps, *x.shape[1:])
            return jnp.moveaxis(x, 1, 0)

        micros = (split(images), split(labels), jnp.arange(accumulate_steps))
        (_, (_, parts)), grads = jax.eval_shape(
            grad_fn, params, batch_stats, images, labels, key
        )
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), (jnp.float32(0), grads, parts)
        )
        (batch_stats, total), _ = jax.lax.scan(add, (batch_stats, zeros), micros)
        value, grads, parts = jax.tree.map(lambda x: x / accumulate_steps, total)
        return (value, (batch_stats, parts)), grads

    def train_step(state: TrainState, batch: Batch):
        key = rng.stream(seed, "train_step", state.step)
        compute = grad_fn if accumulate_steps == 1 else accumulated
        (value, (batch_stats, parts)), grads = compute(
            state.params, state.batch_stats, batch["image"], batch["label"], key
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        t = state.step.astype(jnp.float32)
        decay = jnp.minimum(ema_decay, (1 + t) / (10 + t))

        def average(old, new):
            return jax.tree.map(lambda o, n: decay * o + (1 - decay) * n, old, new)

        scalars = {"loss": value, **parts, "grad_norm": optax.tree.norm(grads)}
        finite = jnp.isfinite(value) & jnp.isfinite(scalars["grad_norm"])
        scalars["nonfinite"] = 1 - finite.astype(jnp.float32)
        after = state.replace(
            params=params,
            batch_stats=batch_stats,
            ema_params=average(state.ema_params, params),
            ema_batch_stats=average(state.ema_batch_stats, batch_stats),
            opt_state=opt_state,
        )
        if skip_nonfinite:
            after = jax.tree.map(lambda n, o: jnp.where(finite, n, o), after, state)
        # Skipped or not, the step is over: the next one takes the next batch.
        return after.replace(step=state.step + 1), scalars

    return train_step


def make_predict_step(
    model, *, mean, std, protocol: Protocol = SINGLE
) -> Callable[[Mapping, jax.Array], jax.Array]:
    """Makes step(variables, uint8 images [n, h, w, 3]) -> logits [n, h, w, classes].

    The logits are enlarged to the size of the images before anything is decided:
    the order that the published mIoU stands for. Softmax over them gives the
    probabilities, also where the protocol averages several passes.
    """

    # Inside a compiled step this is part of it; where the step is not compiled, for
    # images of many sizes, the network still is, once for each size it sees.
    @jax.jit
    def network(variables, images):
        return model.apply(variables, images, train=False)["logits"]

    def predict_step(variables, images):
        return protocols.predict(
            functools.partial(network, variables),
            normalise(images, mean, std),
            protocol,
            models.enlarge(model),
        )

    return predict_step


def make_label_step(
    model, *, mean, std, protocol: Protocol, stretch: bool
) -> Callable[[Mapping, jax.Array, jax.Array], dict[str, jax.Array]]:
    """Makes step(variables, uint8 images [n, h, w, 3], sizes int32 [n, 2]).

    It returns uint8 [n, h, w] of "argmax", the most probable class, and "confidence",
    floor(255 * p + 0.5) of its probability p.

    Args:
      model, mean, std, protocol: see `make_predict_step`.
      stretch: images lie in the upper left `sizes` of (h, w), are stretched to it for
        the network and their logits shrunk back; the network sees no padding. Else
        images fill (h, w) and `sizes` does not matter.
    """
    predict = make_predict_step(model, mean=mean, std=std, protocol=protocol)

    def label_step(variables, images, sizes):
        full = jnp.broadcast_to(jnp.array(images.shape[1:3], jnp.int32), sizes.shape)
        if stretch:
            images = resize_inside(images.astype(jnp.float32), sizes, full)
        logits = predict(variables, images)
        if stretch:
            logits = resize_inside(logits, full, sizes)
        log_p = jnp.max(logits, -1) - jax.nn.logsumexp(logits, axis=-1)
        return {
            "argmax": most_likely(logits),
            "confidence": jnp.floor(255 * jnp.exp(log_p) + 0.5).astype(jnp.uint8),
        }

    return label_step


def make_eval_step(
    model,
    *,
    mean,
    std,
    num_classes: int,
    protocol: Protocol = SINGLE,
    boundary: tuple[float, ...] = (),
) -> Callable[[Mapping, Batch], dict[str, Any]]:
    """Makes step(variables, batch) -> counts and predictions.

    "confusion" int32 [c, c] is the batch's, "per_image" int32 [n, 3, c] has the pixels
    that are right, true and predicted of each class, "prediction" is uint8 [n, h, w],
    "boundary" has the int32 [n, c, 4] of `boundary_counts` for each of the thresholds.
    Rows that only fill a batch hold nothing but 255 and so count nowhere. int32 is
    exact for one batch; the sum over a split belongs in int64, on the host.
    """
    predict = make_predict_step(model, mean=mean, std=std, protocol=protocol)

    @jax.jit
    def count(labels, logits):
        predictions = most_likely(logits)
        each = jax.vmap(lambda *pair: confusion_matrix(*pair, num_classes))(
            labels, predictions
        )
        hits = jnp.diagonal(each, axis1=1, axis2=2)
        return {
            "confusion": each.sum(axis=0),
            "per_image": jnp.stack([hits, each.sum(axis=2), each.sum(axis=1)], axis=1),
            "prediction": predictions,
            "boundary": [
                boundary_counts(
                    labels,
                    predictions,
                    num_classes,
                    boundary_radius(threshold, *labels.shape[1:]),
                )
                for threshold in boundary
            ],
        }

    def eval_step(variables, batch: Batch):
        return count(batch["label"], predict(variables, batch["image"]))

    return eval_step


def make_views_step(model, *, mean, std):
    """Makes step(variables, uint8 images [n, h, w, 3]) -> what `model.views` shows."""

    def views_step(variables, images):
        _, collections = model.apply(
            variables,
            normalise(images, mean, std),
            train=False,
            mutable=["intermediates"],
        )
        return model.views(collections["intermediates"])

    return views_step


def make_classify_step(model, *, mean, std) -> Callable[[Mapping, Batch], jax.Array]:
    """Makes step(variables, batch) -> int32 [3] of `metrics.top_counts`.

    The model is one of `models.create_classifier`. Rows that only fill a batch have
    the label -1 and so count nowhere.
    """

    def classify_step(variables, batch: Batch):
        images = normalise(batch["image"], mean, std)
        outputs = model.apply(variables, images, train=False)
        return top_counts(batch["label"], outputs["logits"])

    return classify_step

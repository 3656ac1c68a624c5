"""Per-pixel losses: masked, float32, with one normaliser over the global batch.

A label outside 0..classes-1 (255, the ignored label, among them) never reaches a
gather and contributes neither value nor gradient. Everything here is elementwise
or a sum, so a batch sharded over devices needs scalar all-reduces only.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from eseg_jax.ops.resize import resize_bilinear

_IGNORED_P = 2.0  # above every probability


def cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Softmax cross-entropy of each pixel, or of each image, in nats.

    Args:
      logits: float `[n,h,w,c]` or `[n,c]`; computed in float32.
      labels: integer `[n,h,w]` or `[n]`; outside 0..c-1 is ignored.

    Returns:
      Values, float32 of the labels' shape, 0 where ignored; and the valid ones, bool.
    """
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"cross_entropy: labels {labels.shape} do not fit logits {logits.shape}; "
            "resize the logits to the size of the labels first."
        )
    logits = logits.astype(jnp.float32)
    labels = labels.astype(jnp.int32)
    valid = (labels >= 0) & (labels < logits.shape[-1])
    values = jax.nn.logsumexp(logits, axis=-1) - _pick(logits, labels)
    return jnp.where(valid, values, 0.0), valid


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean of `values` where `mask` is true, 0 (with gradient 0) if it never is.

    `mask` may also be non-negative weights: sum(weight * value) / sum(weight).
    """
    weights = mask.astype(jnp.float32)
    total = _sum(weights)
    return _sum(values * weights) / jnp.where(total > 0, total, 1.0)


def kth_smallest(values: jax.Array, k: int | jax.Array) -> jax.Array:
    """The value at index `k` of the sorted `values`, exactly, without sorting them.

    Non-negative floats are ordered as their bit patterns are as integers: each round
    fixes the next bits by counting the values below every candidate for them. When
    `values` is sharded only the counts cross devices, where a sort gathers everything.
    On a CPU rounds of one bit cost a fifteenth of the sort. Elsewhere a round reads
    all values once for any number of counts, and eight rounds of four bits are the
    faster form (benchmarks/tpu_plan.md).

    Args:
      values: float32 of any shape, none of them negative or NaN.
      k: integer in 0..size-1, python or traced.
    """
    return lax.platform_dependent(
        values,
        jnp.asarray(k, jnp.int32),
        cpu=functools.partial(_kth_smallest, bits_a_round=1),
        default=functools.partial(_kth_smallest, bits_a_round=4),
    )


def _kth_smallest(values, k, bits_a_round):
    patterns = lax.bitcast_convert_type(values, jnp.uint32)

    def fix_bits(i, found):
        shift = jnp.uint32(32) - bits_a_round * (i.astype(jnp.uint32) + 1)

        def reached(digit):
            candidate = found | (jnp.uint32(digit) << shift)
            return jnp.sum(patterns < candidate, dtype=jnp.int32) <= k

        digits = range(1, 2**bits_a_round)
        digit = sum(reached(each).astype(jnp.uint32) for each in digits)
        return found | (digit << shift)

    found = lax.fori_loop(0, 32 // bits_a_round, fix_bits, jnp.uint32(0))
    return lax.bitcast_convert_type(found, jnp.float32)


def ohem_mask(
    values: jax.Array,
    valid: jax.Array,
    *,
    threshold: float,
    min_kept_fraction: float,
    rule: str = "hrnet",
) -> jax.Array:
    """The hard pixels of online hard example mining.

    With p the softmax probability of the true class on the valid pixels in
    ascending order and min_kept = int(min_kept_fraction * all pixels), keeps

        p < max(threshold, p[min(min_kept, valid pixels - 1)])    "hrnet"
        p <= max(threshold, p[min(min_kept, valid pixels) - 1])   "sfnet"

    HRNet's (ESeg §4.2) drops the pixel at the threshold, the code of SFNet's authors
    keeps it, and every valid pixel where there are no more than min_kept. Both choose
    within each device's batch; our choice is the global batch, so that the loss does
    not depend on the number of devices.

    Args:
      values, valid: float32 and bool `[n,h,w]` of `cross_entropy`.
      threshold: pixels less certain than this are always kept.
      min_kept_fraction: of all pixels of the batch, ignored ones included.
      rule: "hrnet" or "sfnet".

    Returns:
      bool `[n,h,w]`, without gradient.
    """
    # The cross-entropy is -log p of the true class: no second softmax.
    p = jnp.where(valid, jnp.exp(-lax.stop_gradient(values)), _IGNORED_P)
    min_kept = int(min_kept_fraction * values.size)
    count = jnp.sum(valid, dtype=jnp.int32)
    inclusive = rule == "sfnet"
    k = jnp.minimum(min_kept - inclusive, count - 1)
    # Early in training most pixels are below the threshold: p[k] is not needed.
    threshold = lax.cond(
        jnp.sum(p < threshold, dtype=jnp.int32) > k,
        lambda: jnp.float32(threshold),
        lambda: jnp.maximum(jnp.float32(threshold), kth_smallest(p, k)),
    )
    # Said by what is dropped, so that a NaN stays in and the loss shows it.
    return valid & ~((p > threshold) if inclusive else (p >= threshold))


def segmentation_loss(
    outputs: Mapping[str, Any],
    labels: jax.Array,
    *,
    ohem: Mapping[str, float] | None = None,
    class_weights: Sequence[float] | None = None,
    aux_weights: Mapping[str, float] | tuple[()] = (),
    resize: Callable[[jax.Array, tuple[int, int]], jax.Array] = resize_bilinear,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The training loss: cross-entropy at label size plus deep supervision.

    loss = main + sum over aux_weights of weight * aux. Each output is resized and
    selects its own hard pixels (SFNet §4.1).

    Args:
      outputs: {"logits": float `[n,h/s,w/s,c]`, "aux": {name: logits}}.
      labels: integer `[n,h,w]`; outside 0..c-1 is ignored.
      ohem: keyword arguments of `ohem_mask`, or None for all valid pixels.
      class_weights: c weights; None or empty for 1. The loss is the weighted mean,
        divided by the sum of the weights as `torch.nn.CrossEntropyLoss` does (HRNet
        divides by the number of pixels).
      aux_weights: weight of each auxiliary output; those without one are left out.
      resize: enlarges logits to (h, w), from `models.enlarge`.

    Returns:
      The loss, float32 scalar, 0 when every pixel is ignored; and its parts by name:
      "loss_main", "loss_<aux name>", and with `ohem` "ohem_kept", the fraction of
      valid pixels that the main output keeps.
    """
    aux = outputs["aux"]
    aux_weights = dict(aux_weights)
    if missing := sorted(set(aux_weights) - set(aux)):
        raise ValueError(
            f"aux_weights names {missing}, but the model's auxiliary outputs are "
            f"{sorted(aux)}; correct the names in the loss config."
        )

    def output_loss(logits):
        logits = resize(logits.astype(jnp.float32), labels.shape[1:3])
        values, valid = cross_entropy(logits, labels)
        kept = valid if ohem is None else ohem_mask(values, valid, **ohem)
        weights = kept.astype(jnp.float32)
        if class_weights:
            weights *= _weight_of_labels(class_weights, logits.shape, labels)
        return masked_mean(values, weights), masked_mean(kept, valid)

    loss, kept_fraction = output_loss(outputs["logits"])
    parts = {"loss_main": loss}
    if ohem is not None:
        parts["ohem_kept"] = kept_fraction
    for name, weight in sorted(aux_weights.items()):
        parts[f"loss_{name}"], _ = output_loss(aux[name])
        loss += weight * parts[f"loss_{name}"]
    return loss, parts


def classification_loss(
    outputs: Mapping[str, Any], labels: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The mean cross-entropy of images, for pre-training.

    Args:
      outputs: {"logits": float `[n,c]`, "aux": {}}.
      labels: integer `[n]`; outside 0..c-1 is ignored.

    Returns:
      The loss, float32 scalar, and {"top1": the share of the images that is right}.
    """
    values, valid = cross_entropy(outputs["logits"], labels)
    right = jnp.argmax(outputs["logits"], axis=-1) == labels
    return masked_mean(values, valid), {"top1": masked_mean(right, valid)}


def _sum(x: jax.Array) -> jax.Array:
    # Row by row: a CPU adds a small array up one by one and loses digits by it.
    return jnp.sum(lax.optimization_barrier(jnp.sum(x, axis=-1)))


def _pick(values: jax.Array, labels: jax.Array) -> jax.Array:
    """values[..., labels], 0 where the label is none of the classes.

    A comparison with every class and a sum: it fuses with the softmax, and its
    derivative is elementwise where that of a gather is a scatter. On TPU it is the
    faster form, on CPU as fast once the gradient is counted.
    """
    classes = lax.broadcasted_iota(jnp.int32, values.shape, values.ndim - 1)
    return jnp.sum(jnp.where(classes == labels[..., None], values, 0.0), axis=-1)


def _weight_of_labels(
    class_weights: Sequence[float], shape: tuple[int, ...], labels: jax.Array
) -> jax.Array:
    if len(class_weights) != shape[-1]:
        raise ValueError(
            f"class_weights has {len(class_weights)} entries, but the model has "
            f"{shape[-1]} classes; give one weight for each class or None."
        )
    weights = jnp.asarray(class_weights, jnp.float32)
    return _pick(jnp.broadcast_to(weights, shape), labels)

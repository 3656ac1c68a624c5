"""Segmentation metrics: integer counts on the device, one division on the host."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def confusion_matrix(
    labels: jax.Array, predictions: jax.Array, num_classes: int
) -> jax.Array:
    """Counts the pixels of each (true class, predicted class).

    Exact. A batch sharded over devices costs one all-reduce of the matrix.

    Args:
      labels: integer, any shape; pixels outside 0..num_classes-1 (255) are dropped.
      predictions: integer of the same shape, each in 0..num_classes-1.
      num_classes: c.

    Returns:
      int32 `[c, c]`, rows are the truth. Add batches in int64 on the host: int32 ends
      at 2^31, about 1,000 images of 1024 x 2048.
    """
    if labels.shape != predictions.shape:
        raise ValueError(
            f"confusion_matrix: labels {labels.shape} and predictions "
            f"{predictions.shape} differ; resize the logits to the labels' size first."
        )
    labels = labels.reshape(-1).astype(jnp.int32)
    predictions = predictions.reshape(-1).astype(jnp.int32)
    return lax.platform_dependent(
        labels,
        predictions,
        tpu=lambda *pair: _count_by_matmul(*pair, num_classes),
        default=lambda *pair: _count_by_scatter(*pair, num_classes),
    )


def summarize(matrix: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """The benchmark figures of a confusion matrix, in float64.

    The rule of cityscapesScripts (`evalPixelLevelSemanticLabeling.py`): with TP the
    diagonal, FN the rest of the class's row and FP the rest of its column,
    IoU = TP / (TP + FN + FP); a class with neither truth nor prediction has none and
    is left out of the mean.

    Args:
      matrix: integer `[c, c]`, rows are the truth, summed over the whole split.
      class_names: c names.

    Returns:
      miou; iou {name: float or None}; pixel_accuracy, the fraction of the valid pixels
      that is right; mean_accuracy, the mean of TP / (TP + FN) over the classes that
      occur in the truth. Fractions, not percent. What has no pixel is None.
    """
    matrix = np.asarray(matrix)
    size = len(class_names)
    if matrix.shape != (size, size) or matrix.dtype.kind not in "iu":
        raise ValueError(
            f"summarize: the confusion matrix is {matrix.dtype} {matrix.shape}; it "
            f"must be an integer {(size, size)} for {size} class names."
        )
    if (matrix < 0).any():
        raise ValueError(
            "summarize: the confusion matrix has negative counts, so an int32 sum has "
            "overflowed; add the batches in int64."
        )
    matrix = matrix.astype(np.int64)
    hits, truth, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    iou = [_ratio(*pair) for pair in zip(hits, truth + predicted - hits, strict=True)]
    accuracy = [_ratio(*pair) for pair in zip(hits, truth, strict=True)]
    return {
        "miou": _mean(iou),
        "iou": dict(zip(class_names, iou, strict=True)),
        "pixel_accuracy": _ratio(hits.sum(), matrix.sum()),
        "mean_accuracy": _mean(accuracy),
    }


def image_scores(counts: np.ndarray) -> list[tuple[float | None, float | None]]:
    """mIoU and pixel accuracy of each image alone, by the rules of `summarize`.

    Args:
      counts: integer `[n, 3, c]`: pixels of each class that are right, that are truly
        of it, and that are predicted as it where the truth is known.
    """
    scores = []
    for hits, truth, predicted in np.asarray(counts, np.int64):
        union = truth + predicted - hits
        iou = [_ratio(*pair) for pair in zip(hits, union, strict=True)]
        scores.append((_mean(iou), _ratio(hits.sum(), truth.sum())))
    return scores


def boundary_radius(threshold: float, height: int, width: int) -> int:
    """Pixels a boundary may be off: a share of the diagonal, rounded up.

    SFNet's thresholds 0.0005, 0.001875, 0.00375 and 0.005 are 2, 5, 9 and 12 pixels of
    an image of 1024x2048. A threshold of 1 or more is a number of pixels itself.
    """
    return math.ceil(
        threshold * math.hypot(height, width) if threshold < 1 else threshold
    )


def boundary_counts(
    labels: jax.Array, predictions: jax.Array, num_classes: int, radius: int
) -> jax.Array:
    """Counts boundary pixels and those of them that lie near the other map's.

    For the boundary F-score of SFNet's Table 5b, by the rule of the authors' code.
    Near is within `radius` pixels, Euclidean. A pixel that the truth ignores belongs to
    no class in either map.

    Args:
      labels: integer `[n,h,w]`; outside 0..num_classes-1 (255) is ignored.
      predictions: integer `[n,h,w]`.
      num_classes: c.
      radius: pixels, from `boundary_radius`.

    Returns:
      int32 `[n,c,4]`: predicted boundary, its part near the true one, true boundary,
      its part near the predicted one.
    """
    labels, predictions = labels.astype(jnp.int32), predictions.astype(jnp.int32)
    valid = (labels >= 0) & (labels < num_classes)
    predictions = jnp.where(valid, predictions, -1)

    def count(index):
        predicted = _boundary(predictions == index)
        true = _boundary(labels == index)
        parts = (
            predicted,
            predicted & _dilate(true, radius),
            true,
            true & _dilate(predicted, radius),
        )
        return jnp.stack([jnp.sum(p, axis=(1, 2), dtype=jnp.int32) for p in parts], -1)

    # One class at a time: the maps of all would take c times the memory.
    return jnp.moveaxis(lax.map(count, jnp.arange(num_classes)), 0, 1)


def boundary_f(counts: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """The score of a split from the counts of its images.

    With P and R the shares of the predicted and the true boundary that are near the
    other, F = 2PR / (P + R); 1 where neither map has the class, 0 where only one has
    it. A class scores the mean over all images, the split the mean over classes: rare
    classes score high for being absent, as in the authors' code.

    Args:
      counts: integer `[images,c,4]` of `boundary_counts`.
      class_names: c names.

    Returns:
      boundary_f, a fraction; and boundary_f_class {name: fraction}.
    """
    predicted, near_true, true, near_predicted = np.moveaxis(
        np.asarray(counts, np.float64), -1, 0
    )
    precision = near_true / np.maximum(predicted, 1)
    recall = near_predicted / np.maximum(true, 1)
    total = precision + recall
    score = 2 * precision * recall / np.where(total > 0, total, 1)
    score[(predicted == 0) & (true == 0)] = 1.0
    by_class = score.mean(axis=0)
    return {
        "boundary_f": float(by_class.mean()),
        "boundary_f_class": dict(zip(class_names, by_class.tolist(), strict=True)),
    }


def top_counts(labels: jax.Array, logits: jax.Array) -> jax.Array:
    """Counts the images whose class is the first, or among the first five.

    Of equal logits the lower class comes first, as `argmax` has it. A label whose
    logit is NaN comes last.

    Args:
      labels: integer `[n]`; images outside 0..c-1 are dropped.
      logits: float `[n, c]`.

    Returns:
      int32 `[3]`: the first, among the first five, images. Add batches in int64.
    """
    labels = labels.astype(jnp.int32)[:, None]
    classes = lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    own = jnp.sum(jnp.where(classes == labels, logits, 0), axis=1, keepdims=True)
    # Not `logits > own`: with NaN that would be no class at all.
    ahead = ~(logits <= own) | ((logits == own) & (classes < labels))
    rank = jnp.sum(ahead, axis=1, dtype=jnp.int32)
    valid = (labels[:, 0] >= 0) & (labels[:, 0] < logits.shape[1])
    hits = jnp.stack([valid & (rank < 1), valid & (rank < 5), valid])
    return jnp.sum(hits, axis=1, dtype=jnp.int32)


def summarize_top(counts: np.ndarray) -> dict[str, Any]:
    """{"top1", "top5": fractions, "images"} of counts summed over a split in int64."""
    first, five, images = np.asarray(counts, np.int64)
    return {
        "top1": _ratio(first, images),
        "top5": _ratio(five, images),
        "images": int(images),
    }


def _count_by_scatter(
    labels: jax.Array, predictions: jax.Array, num_classes: int
) -> jax.Array:
    # 1 to 2 ns a pixel on CPU, where the product takes 40 to 600.
    cells = num_classes * num_classes
    valid = (labels >= 0) & (labels < num_classes)
    cell = jnp.where(valid, labels * num_classes + predictions, cells)
    counts = jnp.bincount(cell, length=cells + 1)[:cells]  # the last bin is dropped
    return counts.reshape(num_classes, num_classes).astype(jnp.int32)


def _count_by_matmul(
    labels: jax.Array, predictions: jax.Array, num_classes: int
) -> jax.Array:
    # TPU scatters one element after the other; a product of one-hot rows runs on the
    # matrix unit. int8 x int8 -> int32 is exact for any batch; float32 sums of ones
    # would stop growing at 2^24 pixels. An ignored label has a row of zeros.
    rows, columns = (
        jax.nn.one_hot(x, num_classes, dtype=jnp.int8) for x in (labels, predictions)
    )
    return jnp.einsum("pi,pj->ij", rows, columns, preferred_element_type=jnp.int32)


def _ratio(part: np.integer, whole: np.integer) -> float | None:
    return float(part) / float(whole) if whole else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _boundary(mask: jax.Array) -> jax.Array:
    """Pixels that differ from the one to the right, below, or both: bool `[n,h,w]`."""
    # Beyond the last row and column a map goes on as it ends.
    padded = jnp.pad(mask, ((0, 0), (0, 1), (0, 1)), mode="edge")
    right, below, diagonal = padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, 1:, 1:]
    return (mask != right) | (mask != below) | (mask != diagonal)


def _dilate(mask: jax.Array, radius: int) -> jax.Array:
    """Pixels within `radius` of one of the mask `[n,h,w]`, exactly.

    The distance along the row comes from two running extremes; a disk is then an
    interval of it in each of 2 * radius + 1 rows.
    """
    n, h, w = mask.shape
    far = w + radius + 1
    column = jnp.arange(w, dtype=jnp.int32).reshape(1, 1, w)
    left = lax.cummax(jnp.where(mask, column, -far), axis=2)
    right = lax.cummin(jnp.where(mask, column, w + far), axis=2, reverse=True)
    distance = jnp.minimum(column - left, right - column)
    distance = jnp.pad(
        distance, ((0, 0), (radius, radius), (0, 0)), constant_values=far
    )
    near = jnp.zeros(mask.shape, bool)
    for row in range(2 * radius + 1):
        reach = math.isqrt(radius**2 - (row - radius) ** 2)
        near |= distance[:, row : row + h] <= reach
    return near

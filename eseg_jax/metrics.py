"""Segmentation metrics: integer counts on the device, one division on the host."""

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

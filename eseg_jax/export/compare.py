"""Whether an export still is the network that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from eseg_jax.export.runtimes import Exported
from eseg_jax.metrics import confusion_matrix, summarize
from eseg_jax.ops.resize import resize_bilinear, resize_nearest


class Limits(NamedTuple):
    """The largest difference of a logit, and the least share of equal labels."""

    difference: float | None
    agreement: float


# By quantization. Rounded weights move logits, by how much depends on the network.
LIMITS = {
    "": Limits(1e-3, 0.999),
    "float16": Limits(None, 0.99),
    "int8": Limits(None, 0.9),
}


def compare(
    reference: Callable[[np.ndarray], np.ndarray],
    exported: Exported,
    enlarge: Callable,
    examples: Iterable[tuple[np.ndarray, np.ndarray | None]],
    num_classes: int,
) -> dict[str, Any]:
    """Runs both on real images.

    Args:
      reference: uint8 [1, *size, 3] -> the original network's logits.
      exported: what to test, of that size.
      enlarge: see `models.enlarge`.
      examples: images uint8 [h, w, 3], which are resized to the export's size, and
        their labels uint8 [h, w] or None.
      num_classes: of the labels.

    Returns:
      for a record: "images", "max_difference" and "max_logit" (None for an export of
      labels), "agreement" of the labels at the export's size, "miou" and
      "reference_miou" in percent at the size of the true labels, None without them,
      "limits", and "passed", whether all are kept.
    """
    size = tuple(exported.meta["size"])
    difference = largest = equal = count = 0
    names = [str(i) for i in range(num_classes)]
    confusion = np.zeros((2, num_classes, num_classes), np.int64)
    images = labelled = 0
    for image, label in examples:
        image = resized(image, size)[None]
        logits, found = reference(image), exported(image)
        if not exported.gives_labels:
            given = logits if found.shape == logits.shape else enlarge(logits, size)
            difference = max(difference, float(np.abs(found - given).max()))
            largest = max(largest, float(np.abs(given).max()))
        labels = [_labels(x, size, enlarge) for x in (found, logits)]
        equal += int(np.sum(labels[0] == labels[1]))
        count += labels[0].size
        images += 1
        if label is not None:
            labelled += 1
            for i, x in enumerate((found, logits)):
                predicted = _labels(x, label.shape, enlarge)
                confusion[i] += confusion_matrix(label[None], predicted, num_classes)
    if not images:
        raise ValueError("There is no image to compare the export on.")
    limits = LIMITS[exported.meta["quantize"]]
    agreement = equal / count
    miou = [100 * summarize(x, names)["miou"] if labelled else None for x in confusion]
    exact = exported.gives_labels or limits.difference is None
    return {
        "images": images,
        "max_difference": None if exported.gives_labels else difference,
        "max_logit": None if exported.gives_labels else largest,
        "agreement": agreement,
        "miou": miou[0],
        "reference_miou": miou[1],
        "limits": limits._asdict(),
        "passed": agreement >= limits.agreement
        and (exact or difference <= limits.difference),
    }


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The uint8 image [h, w, 3] at another size."""
    if image.shape[:2] == size:
        return image
    x = resize_bilinear(jnp.asarray(image[None], jnp.float32), size)[0]
    return np.asarray(jnp.rint(x), np.uint8)


def _labels(x: np.ndarray, size, enlarge) -> np.ndarray:
    """The labels uint8 [1, *size] of logits [1, h, w, c], or of labels [1, h, w]."""
    if x.ndim == 3:
        x = jnp.asarray(x[..., None], jnp.float32)
        return np.asarray(resize_nearest(x, size)[..., 0], np.uint8)
    logits = jnp.asarray(x)
    if logits.shape[1:3] != tuple(size):
        logits = enlarge(logits, tuple(size))
    return np.asarray(jnp.argmax(logits, axis=-1), np.uint8)

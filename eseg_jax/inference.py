"""From a checkpoint or an export to the labels of an image: `eseg_jax.load`."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image, ImageOps

from eseg_jax import checkpoint, input, models, protocols, state, steps
from eseg_jax.evaluate import create_model
from eseg_jax.export import compare
from eseg_jax.export.runtimes import Exported, find_format
from eseg_jax.ops import resize_bilinear, resize_nearest
from eseg_jax.ops.resize_corners import resize_align_corners
from eseg_jax.protocols import Protocol
from eseg_jax.report import panels


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """The labels of one image. What is not asked for is not computed.

    Attributes:
      image: uint8 [h, w, 3], RGB.
      labels: uint8 [h, w] of train ids, 0 to len(class_names) - 1.
      logits: float32 [h, w, c], on the device; None from an export that gives labels.
      class_names: c names.
      colours: uint8 [c, 3], RGB.
    """

    image: np.ndarray
    labels: np.ndarray
    logits: jax.Array | None
    class_names: tuple[str, ...]
    colours: np.ndarray

    def __repr__(self) -> str:
        height, width = self.labels.shape
        return f"Segmentation({width}x{height}, {len(self.class_names)} classes)"

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """float32 [h, w, c], summing to one in every pixel."""
        return np.asarray(_softmax(self._known_logits()))

    @functools.cached_property
    def confidence(self) -> np.ndarray:
        """float32 [h, w]: the probability of each pixel's label."""
        return np.asarray(_confidence(self._known_logits()))

    def _known_logits(self) -> jax.Array:
        if self.logits is None:
            raise ValueError(
                "This export gives labels alone; export without --argmax for "
                "probabilities."
            )
        return self.logits

    def colour(self) -> np.ndarray:
        """The labels in the dataset's colours, uint8 [h, w, 3]."""
        return panels.colourise(self.labels, self.colours)

    def overlay(self, alpha: float = 0.5) -> np.ndarray:
        """The image under its labels' colours, uint8 [h, w, 3]; alpha 0 shows none."""
        if not 0 <= alpha <= 1:
            raise ValueError(f"overlay(alpha={alpha}): alpha must lie in [0, 1].")
        mixed = (1 - alpha) * self.image + alpha * self.colour()
        return np.rint(mixed).astype(np.uint8)


_softmax = jax.jit(jax.nn.softmax)
# The largest probability without the others.
_confidence = jax.jit(
    lambda logits: jnp.exp(jnp.max(logits, -1) - jax.nn.logsumexp(logits, axis=-1))
)


class Network(NamedTuple):
    """What a checkpoint holds of a run.

    Attributes:
      model: the network.
      variables: "params" and "batch_stats", on one device.
      config: the run's configuration.
      folder: of the checkpoint.
      class_names, colours: of the train ids.
    """

    model: Any
    variables: dict[str, Any]
    config: ConfigDict
    folder: epath.Path
    class_names: tuple[str, ...]
    colours: np.ndarray


class Predictor:
    """Segments images of any size; the first one of a size is compiled for.

    Attributes:
      config: the configuration it was trained with.
      checkpoint: the folder the weights are from.
      protocol: how an image is tested.
      class_names, colours: of the train ids.
    """

    def __init__(self, network: Network, protocol: Protocol):
        model, variables, self.config, self.checkpoint, *classes = network
        self.class_names, self.colours = classes
        self.protocol = protocol
        info = models.info(self.config.model.name)
        norm = {"mean": info.mean, "std": info.std}
        predict = steps.make_predict_step(model, **norm, protocol=protocol)
        if not protocol.few_network_sizes:
            predict = jax.jit(predict)
        self._predict, self._variables = predict, variables
        self._views = None
        if hasattr(model, "views"):
            self._views = jax.jit(steps.make_views_step(model, **norm))

    @property
    def has_views(self) -> bool:
        """Whether `views` has anything to show."""
        return self._views is not None

    def __call__(self, image: np.ndarray | str | os.PathLike) -> Segmentation:
        """Segments an image: uint8 [h, w, 3] RGB, or the path of a file.

        Raises:
          ValueError: the array is something else.
          OSError: the file cannot be read.
        """
        image = read_image(image)
        logits = self._predict(self._variables, image[None])[0]
        labels = np.asarray(_labels(logits))
        return Segmentation(image, labels, logits, self.class_names, self.colours)

    def views(self, image: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """The flow inside SFNet, for `report.flow.sheet`; ValueError elsewhere."""
        views = self._views and self._views(self._variables, read_image(image)[None])
        if not views:
            raise ValueError(
                f"{self.config.model.name} has no flow to show; SFNet's networks have."
            )
        return jax.tree.map(lambda x: np.asarray(x[0]), views)


_labels = jax.jit(lambda logits: jnp.argmax(logits, axis=-1).astype(jnp.uint8))


class ExportedPredictor:
    """A `Predictor` of a file of tools.export, run by the file's own runtime.

    Images are resized to the size it was exported for, and its logits back. Its
    `checkpoint` is that file.
    """

    has_views = False

    def __init__(self, path: str | os.PathLike):
        self._exported = Exported(path)
        meta = self._exported.meta
        self.checkpoint = epath.Path(path)
        self.config = ConfigDict({"model": {"name": meta["model"]}})
        self.protocol = Protocol(size=tuple(meta["size"]))
        self.class_names = tuple(meta["class_names"])
        self.colours = np.asarray(meta["colours"], np.uint8)
        aligned = meta["align_corners"]
        self._enlarge = resize_align_corners if aligned else resize_bilinear

    def __call__(self, image: np.ndarray | str | os.PathLike) -> Segmentation:
        """Segments an image, as `Predictor` does."""
        image = read_image(image)
        size, classes = image.shape[:2], (self.class_names, self.colours)
        found = self._exported(compare.resized(image, self.protocol.size)[None])
        if self._exported.gives_labels:
            found = resize_nearest(jnp.asarray(found[..., None], jnp.float32), size)
            labels = np.asarray(found[0, ..., 0], np.uint8)
            return Segmentation(image, labels, None, *classes)
        logits = self._enlarge(jnp.asarray(found), size)[0]
        return Segmentation(image, np.asarray(_labels(logits)), logits, *classes)

    def views(self, image: np.ndarray) -> dict:
        """Refuses: an export holds nothing but its result."""
        del image
        raise ValueError(f"{self.checkpoint} shows no flow; a checkpoint does.")


def load_network(
    path: str | os.PathLike, weights: str, dtype: str | None = None
) -> Network:
    """The network of a run or of one of its checkpoints, with its "ema" or "raw".

    It computes in `dtype`, by default in that of the configuration.
    """
    folder = checkpoint.find(path)
    meta = checkpoint.read_meta(folder)
    if "config" not in meta:
        raise checkpoint.CheckpointError(
            f"{folder} does not say which configuration it was trained with; give a "
            "checkpoint that eseg_jax.train wrote."
        )
    config = ConfigDict(json.loads(meta["config"]))
    config.dtype = dtype or config.dtype
    if input.is_classification(config):
        raise ValueError(
            f"{folder} holds a classifier of whole images; eseg_jax.load is for "
            "networks trained to segment."
        )
    if "classes" in meta:
        names, colours = meta["classes"]["names"], meta["classes"]["colours"]
    else:
        dataset = input.dataset_info(config)
        names, colours = dataset.class_names, dataset.colours
    model = create_model(config, len(names))
    shapes = jax.eval_shape(lambda: state.init_variables(model, jax.random.key(0)))
    variables = checkpoint.read_variables(folder, shapes, weights)
    colours = np.asarray(colours, np.uint8)
    return Network(model, variables, config, folder, tuple(names), colours)


def load(
    path: str | os.PathLike, *, weights: str = "ema", **protocol
) -> Predictor | ExportedPredictor:
    """Loads a trained network; see `eseg_jax.load`."""
    unknown = protocol.keys() - {field.name for field in dataclasses.fields(Protocol)}
    if unknown:
        raise TypeError(
            f"eseg_jax.load has no option {sorted(unknown)[0]}; its options are "
            f"weights, {', '.join(f.name for f in dataclasses.fields(Protocol))}."
        )
    if find_format(path):
        if protocol:
            raise ValueError(
                f"{path} is an export, which takes an image as it is; "
                f"{', '.join(protocol)} need the checkpoint."
            )
        return ExportedPredictor(path)
    network = load_network(path, weights)
    fields = dict(network.config.get("eval", {})) | protocol
    return Predictor(network, protocols.from_config(fields))


def read_image(image: np.ndarray | str | os.PathLike) -> np.ndarray:
    """uint8 [h, w, 3] RGB of a file, turned upright as its EXIF says, or of an array.

    Raises:
      ValueError: the array has another type or shape.
      OSError: the file is missing, truncated or no picture.
    """
    if isinstance(image, str | os.PathLike):
        with epath.Path(image).open("rb") as file, Image.open(file) as opened:
            return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(
            f"The image is {image.dtype} {image.shape}; it must be uint8 "
            "[height, width, 3] in RGB, or the path of a file."
        )
    return image

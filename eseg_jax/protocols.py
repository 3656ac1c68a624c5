"""How an image becomes logits of its own size: scales, flips, windows, a fixed size."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from eseg_jax.ops.resize import resize_bilinear

_ROUNDING = 32  # of the long side that follows from a short side


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way to test a network; the default is one pass over the whole image.

    Attributes:
      scales: factors of the network's input size, one pass each.
      flip: add the mirrored image of every scale, and mirror its logits back.
      average: of the passes; "probabilities" is the mean of the softmax (ESeg §4.4),
        "logits" is what the authors of SFNet wrote. One pass is the same in both.
      window: (h, w) of the tiles that each pass is cut into, in pixels of the resized
        image; () takes it whole. Where tiles overlap their logits are averaged.
      overlap: least share of a tile that the next one covers again, in [0, 1). The
        last tile of a row or column is moved inside the image.
      size: (h, w) resizes every image to it, for networks of a fixed size; (s,) makes
        the short side s and the long side the nearest multiple of 32, so that a
        dataset of many sizes (ADE20K) needs few compilations; () keeps the size.
        Logits are always brought back to the size of the image.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    average: str = "probabilities"
    window: tuple[int, ...] = ()
    overlap: float = 1 / 3
    size: tuple[int, ...] = ()

    def __str__(self) -> str:
        """What was done, for records: exact, in words."""
        size = (
            "at its own size",
            "resized to a short side of {} and a long side in steps of 32",
            "resized to {}x{}",
        )[len(self.size)].format(*self.size)
        parts = [f"whole image {size}"]
        if self.window:
            tiles = "windows of {}x{}".format(*self.window)
            parts = [f"{tiles} overlapping by {self.overlap:.3g}, image {size}"]
        if len(self.scales) > 1 or self.scales[0] != 1:
            parts.append("scales " + " ".join(f"{s:g}" for s in self.scales))
        else:
            parts.append("single scale")
        parts.append("with flip" if self.flip else "no flip")
        if len(self.scales) > 1 or self.flip:
            parts.append(f"mean of {self.average}")
        return ", ".join(parts)

    @property
    def few_network_sizes(self) -> bool:
        """Whether images of many sizes meet a network of few: compile that alone."""
        return len(self.size) > 0 and not self.window


SINGLE = Protocol()


def from_config(fields: Mapping) -> Protocol:
    """The protocol of `config.eval`; a field that is missing has its default."""
    known = {}
    for field in dataclasses.fields(Protocol):
        if field.name in fields:
            value = fields[field.name]
            known[field.name] = tuple(value) if isinstance(value, list) else value
    return Protocol(**known)


def predict(
    network: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    protocol: Protocol,
    enlarge: Callable[[jax.Array, tuple[int, int]], jax.Array] = resize_bilinear,
) -> jax.Array:
    """Logits of the images' size, from a network whose logits may be smaller.

    Args:
      network: float images [n, h', w', 3] -> logits [n, h'/s, w'/s, c] float32, for
        any h' and w'.
      images: float [n, h, w, 3], normalised.
      protocol: what to do.
      enlarge: (logits, size) -> logits of that size, the network's own way.

    Returns:
      float32 [n, h, w, c], such that softmax gives the probabilities and argmax the
      labels. A mean of probabilities comes as its logarithm, so that the two averages
      have one meaning; a single pass is the network's own logits, enlarged.
    """
    whole = images.shape[1:3]
    flips = (False, True) if protocol.flip else (False,)
    passes = [(scale, flip) for scale in protocol.scales for flip in flips]
    base = _base_size(whole, protocol.size)

    def logits_of(scale, flip):
        size = tuple(max(1, round(scale * side)) for side in base)
        x = resize_bilinear(images, size)
        x = x[:, :, ::-1] if flip else x
        y = _windows(network, x, protocol, enlarge) if protocol.window else network(x)
        # Mirrored back while small; resizing is symmetric.
        return enlarge(y[:, :, ::-1] if flip else y, whole)

    if len(passes) == 1:
        return logits_of(*passes[0])
    if protocol.average == "logits":
        return sum(logits_of(*one) for one in passes) / len(passes)
    # log(mean(softmax)), in logarithms throughout: no probability becomes zero.
    total = jax.nn.log_softmax(logits_of(*passes[0]))
    for one in passes[1:]:
        total = jnp.logaddexp(total, jax.nn.log_softmax(logits_of(*one)))
    return total - math.log(len(passes))


def _base_size(whole: tuple[int, int], size: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of the network's input at scale 1."""
    if len(size) != 1:
        return tuple(size) or whole
    (short,) = size
    factor = short / min(whole)
    return tuple(
        short
        if side == min(whole)
        else _ROUNDING * max(1, round(factor * side / _ROUNDING))
        for side in whole
    )


def _windows(network, x: jax.Array, protocol: Protocol, enlarge) -> jax.Array:
    """Logits of x's size [n, h, w, c]: means over the tiles that cover each pixel."""
    n, h, w, _ = x.shape
    tile = tuple(min(t, side) for t, side in zip(protocol.window, (h, w), strict=True))
    tops, lefts = (
        _starts(side, t, protocol.overlap) for side, t in zip((h, w), tile, strict=True)
    )
    corners = np.array([(top, left) for top in tops for left in lefts])
    count = np.zeros((1, h, w, 1), np.float32)
    for top, left in corners:
        count[:, top : top + tile[0], left : left + tile[1]] += 1

    def tile_logits(top, left):
        part = lax.dynamic_slice(x, (0, top, left, 0), (n, *tile, x.shape[-1]))
        return enlarge(network(part), tile)

    def add(total, corner):
        y = tile_logits(*corner)
        at = (0, corner[0], corner[1], 0)
        old = lax.dynamic_slice(total, at, y.shape)
        return lax.dynamic_update_slice(total, old + y, at), None

    classes = jax.eval_shape(tile_logits, 0, 0).shape[-1]
    zeros = jnp.zeros((n, h, w, classes), jnp.float32)
    # One compiled network however many tiles there are.
    total, _ = lax.scan(add, zeros, jnp.asarray(corners))
    return total / count


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along one axis; the last one ends at the border."""
    step = max(1, math.floor(tile * (1 - overlap)))
    starts = list(range(0, side - tile, step))
    return [*starts, side - tile]

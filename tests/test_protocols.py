"""Test protocols against a slow re-statement in NumPy, pixel by pixel."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eseg_jax import protocols, steps
from eseg_jax.protocols import Protocol

_WEIGHTS = np.random.default_rng(0).normal(size=(3, 4)) * 2


def _network(x):
    """Looks at every second pixel and at the mean of the image, as SE or PPM do."""
    y = x[:, ::2, ::2] + 0.5 * jnp.mean(x, axis=(1, 2), keepdims=True)
    return 3 * jnp.tanh(y @ _WEIGHTS.astype(np.float32))


def _slow_network(x):
    return 3 * np.tanh((x[::2, ::2] + 0.5 * x.mean(axis=(0, 1))) @ _WEIGHTS)


def _slow_resize(x, size):
    out = np.zeros((*size, x.shape[-1]))
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((i + 0.5) * x.shape[0] / size[0] - 0.5, 0), x.shape[0] - 1)
            z = min(max((j + 0.5) * x.shape[1] / size[1] - 0.5, 0), x.shape[1] - 1)
            for a, wa in ((math.floor(y), 1 - y % 1), (math.ceil(y), y % 1)):
                for b, wb in ((math.floor(z), 1 - z % 1), (math.ceil(z), z % 1)):
                    out[i, j] += wa * wb * x[a, b]
    return out


def _slow_softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _slow_windows(x, window, overlap):
    h, w, _ = x.shape
    th, tw = min(window[0], h), min(window[1], w)
    total, count = np.zeros((h, w, 4)), np.zeros((h, w, 1))
    top = 0
    while True:
        top = min(top, h - th)
        left = 0
        while True:
            left = min(left, w - tw)
            part = x[top : top + th, left : left + tw]
            total[top : top + th, left : left + tw] += _slow_resize(
                _slow_network(part), (th, tw)
            )
            count[top : top + th, left : left + tw] += 1
            if left == w - tw:
                break
            left += int(tw * (1 - overlap))
        if top == h - th:
            break
        top += int(th * (1 - overlap))
    return total / count


def _slow(image, protocol):
    h, w, _ = image.shape
    base = protocol.size or (h, w)
    means = []
    for scale in protocol.scales:
        for mirrored in (False, True) if protocol.flip else (False,):
            x = _slow_resize(image, [round(scale * side) for side in base])
            x = x[:, ::-1] if mirrored else x
            if protocol.window:
                y = _slow_windows(x, protocol.window, protocol.overlap)
            else:
                y = _slow_network(x)
            y = _slow_resize(y[:, ::-1] if mirrored else y, (h, w))
            means.append(y if protocol.average == "logits" else _slow_softmax(y))
    return np.mean(means, axis=0)


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol(scales=(0.5, 1.0, 2.0), flip=True),
        Protocol(scales=(0.75, 1.25), flip=True, average="logits"),
        Protocol(window=(6, 8)),
        Protocol(scales=(1.0, 1.5), window=(8, 30), overlap=0.5, flip=True),
        Protocol(size=(8, 24), scales=(0.5, 1.0)),
    ],
    ids=str,
)
def test_equals_slow_numpy(protocol):
    images = np.random.default_rng(1).normal(size=(2, 11, 17, 3)).astype(np.float32)
    logits = jax.jit(lambda x: protocols.predict(_network, x, protocol))(images)
    got = logits if protocol.average == "logits" else jax.nn.softmax(logits)
    if len(protocol.scales) == 1 and not protocol.flip:
        protocol, got = dataclasses.replace(protocol, average="logits"), logits
    for row, image in enumerate(images):
        np.testing.assert_allclose(got[row], _slow(image, protocol), atol=1e-5)


def test_a_certain_network_stays_finite():
    def network(x):
        return jnp.stack([1e3 * x[..., 0], -1e3 * x[..., 0]], axis=-1)

    images = jnp.ones((1, 4, 4, 3))
    logits = protocols.predict(network, images, Protocol(flip=True))
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(jax.nn.softmax(logits)[0, 0, 0], [1, 0])


def test_short_side_keeps_the_ratio_in_steps_of_32():
    seen = []

    def network(x):
        seen.append(x.shape[1:3])
        return x

    for size in ((375, 500), (500, 375), (400, 400), (30, 600)):
        images = jnp.zeros((1, *size, 3))
        protocols.predict(network, images, Protocol(size=(64,)))
    assert seen == [(64, 96), (96, 64), (64, 64), (64, 1280)]


def test_windows_cover_the_image_with_the_last_one_moved_inside():
    assert protocols._starts(10, 4, 0.5) == [0, 2, 4, 6]
    assert protocols._starts(11, 4, 0.25) == [0, 3, 6, 7]
    assert protocols._starts(4, 4, 0.0) == [0]


def test_record_says_what_was_measured():
    assert str(protocols.SINGLE) == (
        "whole image at its own size, single scale, no flip"
    )
    full = Protocol(
        scales=(0.5, 1.0), flip=True, window=(512, 1024), size=(512,), overlap=0.25
    )
    assert str(full) == (
        "windows of 512x1024 overlapping by 0.25, image resized to a short side of 512 "
        "and a long side in steps of 32, scales 0.5 1, with flip, mean of probabilities"
    )
    assert str(Protocol(size=(512, 1024))) == (
        "whole image resized to 512x1024, single scale, no flip"
    )


def test_config_fields_have_defaults():
    assert protocols.from_config({"batch_size": 8}) == protocols.SINGLE
    assert protocols.from_config({"scales": [0.5, 1.0], "flip": True}) == Protocol(
        scales=(0.5, 1.0), flip=True
    )


def test_network_is_compiled_for_its_own_sizes_alone(monkeypatch):
    """Images of four sizes, resized to one: one compilation of the network."""
    traces = []

    class Model:
        def apply(self, variables, images, train):
            traces.append(images.shape)
            return {"logits": images * variables}

    step = steps.make_predict_step(
        Model(), mean=(0.0,) * 3, std=(1.0,) * 3, protocol=Protocol(size=(8, 8))
    )
    for size in ((4, 6), (6, 4), (5, 5), (9, 7)):
        logits = step(jnp.float32(2), jnp.ones((1, *size, 3), jnp.uint8))
        np.testing.assert_allclose(logits, np.full((1, *size, 3), 2.0))
    assert traces == [(1, 8, 8, 3)]

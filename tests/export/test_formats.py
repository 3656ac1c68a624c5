"""Small networks in every format, run by the format's own runtime."""

import importlib.util
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import eseg_jax
from eseg_jax import models
from eseg_jax.export import compare, formats, onnx_format, tf_format
from eseg_jax.export.errors import ExportError
from eseg_jax.export.graph import reachable, trace
from eseg_jax.export.runtimes import Exported, load_runtime
from eseg_jax.models.folding import fold
from eseg_jax.ops import conv, depthwise_conv, max_pool, resize_bilinear, resize_nearest
from eseg_jax.ops.adaptive_pool import adaptive_avg_pool
from eseg_jax.ops.conv import grouped_pointwise
from eseg_jax.ops.pool import avg_pool
from eseg_jax.ops.resize_corners import resize_align_corners
from eseg_jax.ops.warp import bilinear_warp
from eseg_jax.state import init_variables

NEEDS = {
    "stablehlo": (),
    "saved_model": ("tensorflow",),
    "litert": ("tensorflow", "ai_edge_litert"),
    "onnx": ("onnx", "onnxruntime"),
}
SIZE = (32, 48)
META = {
    "model": "eseg_lite_s",
    "mean": [120.0, 110.0, 100.0],
    "std": [60.0, 50.0, 40.0],
    "class_names": ["a", "b", "c"],
    "colours": [[0, 0, 0], [9, 9, 9], [99, 99, 99]],
}


@pytest.fixture(params=NEEDS)
def kind(request):
    for module in NEEDS[request.param]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    return request.param


@pytest.fixture(scope="module")
def network():
    options = {"width": 0.1, "depth": 0.1, "features": 8, "max_level": 6}
    model = models.create("eseg_lite_s", 3, **options)
    variables = jax.jit(lambda: init_variables(model, jax.random.key(3)))()
    # Near-zero logits of a new classifier would tie.
    variables["params"]["classifier"]["kernel"] *= 100
    variables["params"]["classifier"]["bias"] += 1
    # As trained, no bias of the folded network is zero and could be left out.
    variables["batch_stats"] = jax.tree.map(lambda x: x + 0.1, variables["batch_stats"])
    return model, variables


def photos(count=1, size=SIZE):
    shape = (count, *size, 3)
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def logits(network, images):
    model, variables = network
    x = (images.astype("f") - np.array(META["mean"], "f")) / np.array(META["std"], "f")
    return np.asarray(model.apply(variables, x, train=False)["logits"])


def written(network, folder, kind, **options):
    model, variables = network
    options = formats.Options(kind, SIZE, **options)
    return formats.write(model, variables, options, folder, meta=META)


def test_logits_of_any_batch(network, kind, tmp_path):
    batch = 2 if kind == "litert" else 0
    path = written(network, tmp_path, kind, batch=batch)
    images = photos(3)
    found = Exported(path)(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, logits(network, images), rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["litert", "onnx"], indirect=True)
def test_labels_of_uint8_images(network, kind, tmp_path):
    path = written(network, tmp_path, kind, output="labels", uint8=True)
    (image,) = photos()
    found = eseg_jax.load(path)(image)
    wanted = resize_bilinear(jnp.asarray(logits(network, image[None])), SIZE)
    assert found.labels.shape == SIZE and found.labels.dtype == np.uint8
    assert np.mean(found.labels == np.argmax(wanted[0], axis=-1)) > 0.99
    assert len(np.unique(found.labels)) > 1
    with pytest.raises(ValueError, match="without --argmax"):
        _ = found.probabilities


def test_an_export_is_loaded_as_a_checkpoint_is(network, tmp_path):
    path = written(network, tmp_path, "stablehlo", output="enlarged", uint8=True)
    (image,) = photos()
    predictor = eseg_jax.load(path)
    found = predictor(image)
    wanted = resize_bilinear(jnp.asarray(logits(network, image[None])), SIZE)
    np.testing.assert_allclose(found.logits, wanted[0], rtol=0, atol=1e-3)
    assert predictor.class_names == ("a", "b", "c")
    Image.fromarray(photos(size=(20, 30))[0]).save(tmp_path / "small.png")
    assert predictor(tmp_path / "small.png").labels.shape == (20, 30)
    with pytest.raises(ValueError, match="flip need the checkpoint"):
        eseg_jax.load(path, flip=True)
    formats.meta_path(path).unlink()
    with pytest.raises(ExportError, match="no model.stablehlo.json beside it"):
        eseg_jax.load(path)


@pytest.mark.parametrize("quantize", ["float16", "int8"])
def test_quantized(network, quantize, tmp_path):
    pytest.importorskip("ai_edge_litert")
    model, variables = network
    options = formats.Options("litert", SIZE, quantize=quantize)
    path = formats.write(
        *(model, variables, options, tmp_path),
        meta=META,
        calibration=lambda: photos(4)[:, None],
    )
    assert path.name == f"model_{quantize}.tflite"
    wanted = logits(network, photos())
    difference = np.abs(Exported(path)(photos()) - wanted).max()
    assert 0 < difference < 0.2 * np.abs(wanted).max()


def _all_operations(x):
    """Every operation, with the shapes and paddings that are easy to get wrong."""
    random = np.random.default_rng(0)

    def kernel(*shape):
        return jnp.asarray(random.normal(size=shape), jnp.float32)

    x = conv(x, kernel(3, 3, 3, 8), strides=(2, 2), padding=((1, 1), (1, 1)))
    x = depthwise_conv(x, kernel(5, 5, 1, 8), strides=(2, 2)) + 0.5
    x = x + grouped_pointwise(x, kernel(1, 1, 4, 8), groups=2)
    x = depthwise_conv(x, kernel(3, 3, 1, 8), padding=((2, 2), (2, 2)), dilation=(2, 2))
    # Negative throughout: a zero from the padding would win.
    x = max_pool(x - 100.0, padding=((1, 2), (1, 2)))
    x = resize_nearest(avg_pool(x), (7, 11))
    x = resize_align_corners(resize_bilinear(x, (5, 8)), (9, 13))
    left, right = jnp.split(x, 2, axis=-1)
    x = jnp.stack([left, right], axis=-1).reshape(x.shape)
    y = adaptive_avg_pool(x, 3)
    y = jnp.broadcast_to(jnp.max(y, axis=(1, 2), keepdims=True), x.shape)
    x = jnp.concatenate([x, 2 * y], axis=-1)
    x = x * jax.nn.sigmoid(x) + jax.nn.relu6(x) + jax.nn.softmax(x)
    flow = jnp.clip(x[..., :2] / 50, -1.5, 1.5)
    return bilinear_warp(x, flow, align_corners=False)


@pytest.mark.parametrize("kind", ["saved_model", "litert", "onnx"], indirect=True)
def test_every_operation(kind, tmp_path):
    images = np.random.default_rng(2).normal(size=(1, 30, 41, 3)).astype("f")
    nodes = trace(_all_operations, jax.ShapeDtypeStruct(images.shape, jnp.float32))
    path = str(tmp_path / formats.FILES[kind])
    match kind:
        case "onnx":
            onnx_format.write(*nodes, "out", path)
        case "saved_model":
            tf_format.write_saved_model(*nodes, "out", path)
        case "litert":
            tf_format.write_litert(*nodes, "out", path)
    wanted = np.asarray(_all_operations(images))
    assert np.abs(wanted).max() > 1
    found = load_runtime(path)(images)
    atol = 1e-4 * np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=atol)


def test_graph_is_short(network):
    model, variables = network
    folded = fold(model, variables)
    _, whole = trace(
        lambda x: model.apply(folded, x, train=False)["logits"],
        jax.ShapeDtypeStruct((1, *SIZE, 3), jnp.float32),
    )
    kinds = [node.op for node in reachable(whole)]
    names = set(kinds) - {"input", "constant", "conv", "depthwise_conv", "relu"}
    assert names == {
        *("add", "mul", "avg_pool", "max_pool"),
        *("resize_nearest", "resize_bilinear"),
    }
    convolutions = [n for n in reachable(whole) if n.op == "conv"]
    assert all(len(node.inputs) == 3 for node in convolutions), "a bias stands alone"


def test_unknown_operations_are_named():
    with pytest.raises(ExportError, match="the operation sort, which no format"):
        trace(jnp.sort, jax.ShapeDtypeStruct((4,), jnp.float32))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("tensorrt", SIZE), "no format 'tensorrt'"),
        (("onnx", SIZE, 1, "logits", False, "int8"), "int8 is for litert"),
        (("litert", SIZE, 0), "fixed batch"),
    ],
)
def test_options_that_do_not_go_together(options, words):
    with pytest.raises(ExportError, match=words):
        formats.Options(*options).check()


def test_what_is_not_installed_is_named(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match=r"pip install 'eseg_jax\[export\]'"):
        written(network, tmp_path, "onnx")
    monkeypatch.delitem(sys.modules, "eseg_jax.input.tf_cpu", raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ExportError, match="tensorflow is not installed"):
        load_runtime(tmp_path)


def test_not_an_export(tmp_path):
    with pytest.raises(ExportError, match="is no export"):
        load_runtime(tmp_path)


class _Fake:
    """An export whose logits are off by a number."""

    gives_labels = False

    def __init__(self, reference, error):
        self.meta = {"size": [4, 4], "quantize": ""}
        self._reference, self._error = reference, error

    def __call__(self, images):
        return self._reference(images) + np.array([self._error, 0], "f")


@pytest.mark.parametrize(
    ("error", "agreement", "passed"), [(0, 1, True), (0.01, 1, False), (9, 0.5, False)]
)
def test_comparison(error, agreement, passed):
    # Class 1 leads by 1 in the upper half, class 0 by 1 below.
    lead = np.repeat([-1.0, 1.0], 8).reshape(1, 4, 4).astype("f")

    def reference(images):
        assert images.shape == (1, 4, 4, 3)
        return np.stack([lead, np.zeros_like(lead)], axis=-1)

    truth = np.repeat(np.uint8([1, 0]), 8).reshape(4, 4)
    result = compare.compare(
        reference,
        _Fake(reference, error),
        resize_bilinear,
        [(photos(size=(4, 4))[0], truth)],
        2,
    )
    assert result["max_difference"] == pytest.approx(error, abs=1e-6)
    assert result["agreement"] == agreement and result["passed"] is passed
    assert result["reference_miou"] == 100
    assert result["miou"] == pytest.approx(100 if agreement == 1 else 25)
    json.dumps(result)

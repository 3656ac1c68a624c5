"""Every configuration loads, validates and builds at its true size."""

import importlib
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from eseg_jax import evaluate, input, losses, models, optimizer, state, steps
from eseg_jax.config import ConfigError, validate

_FOLDER = pathlib.Path(__file__).resolve().parents[1] / "configs"
_NAMES = sorted(
    path.stem
    for path in _FOLDER.glob("*.py")
    if path.stem not in ("base", "pretrain")  # tests/test_pretrain.py has that one
    # Vistas' classes are in a file of its download; see the test below.
    if "mapillary_pretrain" not in path.stem
)


def _load(name, *args):
    return importlib.import_module(f"configs.{name}").get_config(*args)


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize(
    "dataset", ["cityscapes", "ade20k", "folder", "camvid", "scenes"]
)
def test_validates(name, dataset):
    config = _load(name, dataset)
    validate(config)
    assert config.dataset.name == dataset
    assert config.model.name in models.names()


@pytest.mark.parametrize(
    ("dataset", "name", "steps"),
    [
        ("camvid_720", "camvid_720", 2_752),
        ("ade20k", "ade20k", 151_575),
        ("pascal_context", "pascal_context_60", 37_485),
    ],
)
def test_sfnets_other_recipes(dataset, name, steps):
    config = _load("sfnet_resnet18", dataset)
    validate(config)
    assert (config.dataset.name, config.total_steps) == (name, steps)
    assert input.dataset_info(config).num_classes in (11, 60, 150)


def test_camvid_is_the_papers_where_they_have_one():
    short, frfnet, dfanet = (
        _load(name, "camvid") for name in ("eseg_lite_s", "frfnet", "dfanet_b")
    )
    assert _load("sfnet_df1", "camvid").optimizer == short.optimizer
    assert len(short.loss.class_weights) == 11
    # FRFNet §4.1: Adam from 1e-4 to 1e-6, 800 epochs of 16 of 367 images, [0.5, 2].
    assert (frfnet.optimizer.name, frfnet.optimizer.schedule) == ("adam", "cosine")
    assert frfnet.optimizer.learning_rate == 1e-4
    assert frfnet.optimizer.final_learning_rate == 1e-6
    assert frfnet.total_steps * frfnet.input.batch_size == 800 * 367
    assert (frfnet.input.crop, frfnet.input.scale) == ((360, 480), (0.5, 2.0))
    # DFANet §4.1: SGD, poly 0.9 from 0.2, 40,000 steps of 48, cross-entropy.
    assert (dfanet.optimizer.name, dfanet.optimizer.schedule) == ("sgd", "poly")
    assert dfanet.optimizer.learning_rate == 0.2
    assert (dfanet.total_steps, dfanet.input.batch_size) == (40_000, 48)
    assert dfanet.input.scale == (0.75, 1.75)
    assert dfanet.loss.class_weights == () and dfanet.loss.ohem_threshold == 0
    whole = _load("dfanet_b", "camvid_720")
    validate(whole)
    assert (whole.dataset.name, whole.input.crop) == ("camvid_720", (720, 960))
    assert whole.optimizer == dfanet.optimizer and whole.loss == dfanet.loss


@pytest.mark.parametrize("name", _NAMES)
def test_one_step_at_true_size(name):
    config = _load(name)
    num_classes = input.dataset_info(config).num_classes
    model = evaluate.create_model(config, num_classes)
    tx = optimizer.make_optimizer(config.optimizer, config.total_steps)
    shapes = jax.eval_shape(lambda: state.init_state(model, tx, jax.random.key(0)))
    step = steps.make_train_step(
        model,
        tx,
        losses.segmentation_loss,
        mean=models.info(config.model.name).mean,
        std=models.info(config.model.name).std,
        seed=0,
        ema_decay=config.ema_decay,
    )
    image = jax.ShapeDtypeStruct(
        (config.input.batch_size, *config.input.crop, 3), jnp.uint8
    )
    label = jax.ShapeDtypeStruct(image.shape[:3], jnp.uint8)
    after, scalars = jax.eval_shape(step, shapes, {"image": image, "label": label})
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shapes
    )
    assert scalars["loss"].shape == () and scalars["loss"].dtype == jnp.float32


@pytest.mark.parametrize("size", ["s", "m", "l"])
def test_mapillary_pretraining(size, tmp_path):
    labels = [
        {"name": f"n{i}", "readable": f"N {i}", "color": [i, i, i], "evaluate": i < 65}
        for i in range(66)
    ]
    (tmp_path / "config.json").write_text(json.dumps({"labels": labels}))
    config = _load(f"eseg_{size}_mapillary_pretrain")
    config.dataset.root = str(tmp_path)
    validate(config)
    assert input.dataset_info(config).num_classes == 65
    assert config.total_steps == 500 * 18_000 // 16
    config = _load(f"eseg_{size}_mapillary_pretrain", "scenes")
    validate(config)
    assert input.dataset_info(config).num_classes == 16


def test_all_mistakes_are_named_at_once(tiny_config):
    tiny_config.total_steps = 0
    tiny_config.optimizer.learning_rate = -1.0
    tiny_config.input.scale = (2.0, 1.0)
    tiny_config.input.crop = (32, 32, 64, 64)  # given twice on the command line
    tiny_config.input.update(blur=(2.0, 1.0), class_uniform=0.5, cache_gb=-1.0)
    tiny_config.optimizer.frozen = "("
    tiny_config.profile = "20:10"
    with pytest.raises(ConfigError) as error:
        validate(tiny_config)
    text = str(error.value)
    for field in (
        "total_steps",
        "optimizer.learning_rate",
        "input.scale",
        "input.crop",
        "input.blur",
        "input.centroids",
        "input.cache_gb",
        "optimizer.frozen",
        "profile",
    ):
        assert f"config.{field} = " in text


def test_unknown_dataset_is_refused():
    with pytest.raises(ValueError, match=":camvid or :scenes"):
        _load("eseg_s", "citiscapes")


def test_a_typo_fails_before_anything_is_built():
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "eseg_jax.main",
            "--config=configs/eseg_s.py",
            "--config.optimizer.learnin_rate=0.1",
            "--workdir=unused",
        ],
        cwd=_FOLDER.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "learning_rate" in done.stderr + done.stdout

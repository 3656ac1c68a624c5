"""Pre-training a backbone as a classifier, and starting a network from it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import pretrain
from eseg_jax import evaluate, input, losses, models, optimizer, state, steps
from eseg_jax.config import validate
from eseg_jax.init_from import load_initial
from eseg_jax.train import train
from eseg_jax.trees import flatten_names

COLOURS = {"blue": (30, 40, 200), "green": (40, 180, 60), "red": (210, 50, 40)}


def variables_of(name, num_classes, create=models.create):
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    model = create(name, num_classes)
    return jax.eval_shape(
        lambda x: model.init({"params": jax.random.key(0)}, x, train=False), images
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A pre-trained backbone of FRFNet-slim: (workdir, configuration, state)."""
    root = tmp_path_factory.mktemp("classes")
    draw = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 5)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for k in range(count):
                image = np.array(colour) + draw.normal(0, 30, (24, 24, 3))
                image = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
                image.save(root / split / name / f"{k}.png")
    config = pretrain.get_config("frfnet_slim")
    config.dataset.root = str(root)
    config.input.update(batch_size=8, crop=(16, 16))
    config.optimizer.learning_rate = 0.02
    config.total_steps = 24
    config.eval.batch_size = 8
    config.log_every = 4
    config.eval_every = config.checkpoint_every = 12
    folder = tmp_path_factory.mktemp("run")
    return folder, config, train(config, str(folder))


def test_it_learns_the_classes(run):
    folder, _, _ = run
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    first, last = [r for r in records if r["split"] == "val"]
    assert (first["step"], last["step"]) == (12, 24)
    assert last["top1"] >= 0.9
    assert last["top5"] == 1.0  # of three classes
    assert last["images"] == 15
    trained = [r for r in records if r["split"] == "train"]
    assert trained[-1]["loss"] < 0.75 * trained[0]["loss"]
    # Ten times less in the second half.
    rates = {r["step"]: r["learning_rate"] for r in trained}
    assert rates[12] == pytest.approx(0.02) and rates[16] == pytest.approx(0.002)
    page = (folder / "report.html").read_text()
    assert "best top-1, val" in page and "mIoU" not in page


def test_evaluating_it_again_gives_the_same(run):
    folder, config, _ = run
    record = evaluate.evaluate(config, str(folder))
    last = (folder / "metrics.jsonl").read_text().splitlines()[-1]
    assert record["top1"] == json.loads(last)["top1"]
    assert record["protocol"] == "the middle of each image, one pass"
    assert (folder / "evaluation" / "val_24_ema.json").exists()


def test_the_network_starts_from_the_averages(run):
    folder, _, trained = run
    there = flatten_names(trained.variables("ema"))
    loaded = flatten_names(
        load_initial(str(folder), "backbone", variables_of("frfnet_slim", 19))
    )
    assert set(loaded) == {name for name in there if "/backbone/" in name}
    for name, values in loaded.items():
        np.testing.assert_array_equal(values, there[name])


def test_a_backbone_of_another_width_is_refused_by_name(run):
    folder, _, _ = run
    with pytest.raises(ValueError) as error:
        load_initial(str(folder), "backbone", variables_of("frfnet", 19))
    kernel = "params/backbone/stem/conv/conv/kernel"
    assert f"{kernel} is (3, 3, 3, 16) there and (3, 3, 3, 32) here" in str(error.value)


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("dfanet_b_x2", r"backbone_"),
        ("sfnet_df1", r"encoder/"),
        *(
            pytest.param(name, backbone, marks=pytest.mark.slow)
            for name, backbone in {
                "dfanet_a": "backbone_",
                "eseg_lite_s": "encoder/",
                "eseg_s": "encoder/",
                "eseg_resnet50": "encoder/",
                "frfnet": "backbone/",
                "sfnet_df2": "encoder/",
                "sfnet_resnet18": "encoder/",
                "sfnet_resnet50": "encoder/",
                "sfnet_resnet101": "encoder/",
                "sfnet_shufflenet": "encoder/",
            }.items()
        ),
    ],
)
def test_every_backbone_loads_strictly(name, backbone, tmp_path):
    source = flatten_names(variables_of(name, 1000, models.create_classifier))
    arrays = {
        name: np.full(x.shape, i, np.float32)
        for i, (name, x) in enumerate(source.items())
    }
    np.savez(tmp_path / "weights.npz", **arrays)
    network = variables_of(name, 19)
    loaded = flatten_names(load_initial(str(tmp_path), "backbone", network))
    wanted = {
        x for x in flatten_names(network) if x.split("/", 1)[1].startswith(backbone)
    }
    if name.startswith("dfanet"):
        # Where later sub-networks read more channels they start from nothing; the
        # attentions have the classifier.
        assert {f"params/attention_{n}/fc/kernel" for n in (1, 2)} <= set(loaded)
        fresh = wanted - set(loaded)
        assert fresh and all(
            "/blocks_0/conv1/" in x or "/blocks_0/shortcut/" in x for x in fresh
        )
        assert not any("/backbone_1/" in x for x in fresh)
    else:
        assert set(loaded) == wanted
    removed = sorted(x for x in arrays if backbone in x)[0]
    del arrays[removed]
    np.savez(tmp_path / "weights.npz", **arrays)
    with pytest.raises(ValueError, match=f"missing {removed}"):
        load_initial(str(tmp_path), "backbone", network)


@pytest.mark.parametrize("name", ["dfanet_a", "frfnet_slim"])
def test_one_step_at_true_size(name):
    config = pretrain.get_config(name)
    config.dataset.update(name="imagenet2012", eval_split="validation")
    validate(config)
    # 60 epochs.
    images = input.num_examples(config, "train")
    assert config.total_steps == round(60 * images / config.input.batch_size)
    model = evaluate.create_model(config, input.dataset_info(config).num_classes)
    tx = optimizer.make_optimizer(config.optimizer, config.total_steps)
    shapes = jax.eval_shape(lambda: state.init_state(model, tx, jax.random.key(0)))
    info = models.info(name)
    step = steps.make_train_step(
        model,
        tx,
        losses.classification_loss,
        mean=info.mean,
        std=info.std,
        seed=0,
        ema_decay=config.ema_decay,
    )
    n = config.input.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((n, *config.input.crop, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((n,), jnp.int32),
    }
    after, scalars = jax.eval_shape(step, shapes, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shapes
    )
    assert set(scalars) == {"loss", "top1", "grad_norm", "nonfinite"}

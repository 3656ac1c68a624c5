"""What a run starts from: files of tools.convert and other runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eseg_jax import checkpoint, evaluate, init_from
from eseg_jax.models.weight_files import WeightsError
from eseg_jax.state import TrainState
from eseg_jax.train import train
from eseg_jax.trees import flatten_names, map_with_names, unflatten_names

NETWORK = {
    "params/encoder/stem/kernel": (3, 3, 3, 4),
    "batch_stats/encoder/bn/mean": (4,),
    "params/classifier/kernel": (1, 1, 4, 5),
}


def arrays(shapes):
    """Each array is full of its own number."""
    return {
        name: np.full(shape, i + 1, np.float32)
        for i, (name, shape) in enumerate(shapes.items())
    }


def shapes_of(shapes):
    return unflatten_names(
        {name: jax.ShapeDtypeStruct(x, jnp.float32) for name, x in shapes.items()}
    )


def save(folder, shapes):
    np.savez(folder / "weights.npz", **arrays(shapes))
    return folder


def load(path, part, shapes):
    return flatten_names(init_from.load_initial(path, part, shapes_of(shapes)))


def refusal(path, part, shapes):
    with pytest.raises(WeightsError) as error:
        load(path, part, shapes)
    return str(error.value)


def test_whole_network_from_folder_or_file(tmp_path):
    save(tmp_path, NETWORK)
    for path in (tmp_path, tmp_path / "weights.npz"):
        loaded = load(path, "all", NETWORK)
        assert loaded.keys() == NETWORK.keys()
        np.testing.assert_array_equal(
            loaded["params/classifier/kernel"], np.full((1, 1, 4, 5), 3)
        )


def test_backbone_leaves_the_classifier(tmp_path):
    loaded = load(save(tmp_path, NETWORK), "backbone", NETWORK)
    assert set(loaded) == set(NETWORK) - {"params/classifier/kernel"}


def test_every_difference_is_named(tmp_path):
    there = {
        "params/encoder/stem/kernel": (3, 3, 3, 8),
        "params/encoder/extra/kernel": (2,),
        "params/other/kernel": (2,),
    }
    text = refusal(save(tmp_path, there), "backbone", NETWORK)
    assert "(3 differences)" in text
    assert "params/encoder/stem/kernel is (3, 3, 3, 8) there and (3, 3, 3, 4)" in text
    assert "extra params/encoder/extra/kernel (2,)" in text
    assert "missing batch_stats/encoder/bn/mean (4,)" in text
    text = refusal(tmp_path, "all", NETWORK)
    assert "(5 differences)" in text
    assert "extra params/other/kernel (2,)" in text


def test_other_classes_are_named_with_the_way_out(tmp_path):
    other = NETWORK | {"params/classifier/kernel": (1, 1, 4, 9)}
    text = refusal(save(tmp_path, other), "all", NETWORK)
    assert "Only the classes differ: set config.init_part=all_but_classifier" in text
    assert "params/classifier/kernel is (1, 1, 4, 9) there" in text
    assert len(load(tmp_path, "backbone", NETWORK)) == 2


def test_all_but_the_classifier_keeps_the_decoder(tmp_path):
    decoder = {"params/decoder/node/kernel": (4,), "params/classifier/bias": (5,)}
    there = NETWORK | decoder | {"params/classifier/kernel": (1, 1, 4, 9)}
    here = NETWORK | decoder
    loaded = load(save(tmp_path, there), "all_but_classifier", here)
    assert set(loaded) == {name for name in here if "classifier" not in name}
    text = refusal(tmp_path, "all_but_classifier", here | {"params/new": (1,)})
    assert "does not fit the whole" in text and "missing params/new (1,)" in text


def test_a_backbone_is_not_the_whole(tmp_path):
    backbone = {name: x for name, x in NETWORK.items() if "classifier" not in name}
    text = refusal(save(tmp_path, backbone), "all", NETWORK)
    assert "It holds a backbone alone: set config.init_part=backbone" in text
    assert "missing params/classifier/kernel" in text


def test_files_of_others_are_to_be_converted_first(tmp_path):
    np.savez(tmp_path / "other.npz", **{"conv1.weight": np.zeros(3)})
    text = refusal(tmp_path / "other.npz", "all", NETWORK)
    assert "python -m eseg_jax.tools.convert" in text


def test_dfanet_starts_every_sub_network_from_the_first(tmp_path):
    """The first's wider inputs and an unfit classifier keep their random start."""
    conv = "enc2/blocks_0/conv1/depthwise/conv/kernel"
    inner = "enc2/blocks_0/conv2/depthwise/conv/kernel"
    classifier = {
        "params/backbone_1/conv1/conv/kernel": (3, 3, 3, 8),
        f"params/backbone_1/{conv}": (3, 3, 1, 8),
        f"params/backbone_1/{inner}": (3, 3, 1, 12),
        "params/classifier/kernel": (1, 1, 6, 1000),
    }
    network = {
        name: x for name, x in classifier.items() if "classifier" not in name
    } | {
        f"params/backbone_2/{conv}": (3, 3, 1, 240),
        f"params/backbone_2/{inner}": (3, 3, 1, 12),
        "params/attention_1/fc/kernel": (1, 1, 6, 1000),
        "params/attention_2/fc/kernel": (1, 1, 6, 1000),
        "params/attention_2/reduce/kernel": (1, 1, 1000, 6),
        "params/classifier/kernel": (1, 1, 6, 19),
    }
    loaded = load(save(tmp_path, classifier), "backbone", network)
    values = {name: float(x.flat[0]) for name, x in loaded.items()}
    assert values == {
        "params/backbone_1/conv1/conv/kernel": 1,
        f"params/backbone_1/{conv}": 2,
        f"params/backbone_1/{inner}": 3,
        f"params/backbone_2/{inner}": 3,
        "params/attention_1/fc/kernel": 4,
        "params/attention_2/fc/kernel": 4,
    }
    few = classifier | {"params/classifier/kernel": (1, 1, 6, 10)}
    loaded = load(save(tmp_path, few), "backbone", network)
    assert not any("attention" in name for name in loaded)


def test_averages_of_another_run(tmp_path):
    def tree(value):
        leaves = {name: jnp.full(x, value) for name, x in NETWORK.items()}
        return unflatten_names(leaves)

    state = TrainState(
        step=jnp.int32(1),
        params=tree(1.0)["params"],
        batch_stats=tree(2.0)["batch_stats"],
        ema_params=tree(3.0)["params"],
        ema_batch_stats=tree(4.0)["batch_stats"],
        opt_state=(),
    )
    manager = checkpoint.open_manager(tmp_path, keep=1)
    checkpoint.save(manager, 1, state, {}, None)
    manager.close()
    loaded = load(tmp_path, "backbone", NETWORK)
    assert {name: float(x.flat[0]) for name, x in loaded.items()} == {
        "params/encoder/stem/kernel": 3,
        "batch_stats/encoder/bn/mean": 4,
    }


def test_only_a_fresh_run_starts_from_it(tmp_path, tiny_config):
    """A step at no learning rate keeps what it was given; a resume ignores it."""
    config = tiny_config
    config.init_part = "backbone"
    config.init_from = str(tmp_path / "weights.npz")
    config.optimizer.learning_rate = 1e-30
    config.total_steps = config.optimizer.warmup_steps = 1
    model = evaluate.create_model(config, 19)
    shapes = jax.eval_shape(
        lambda x: model.init({"params": jax.random.key(0)}, x, train=False),
        jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32),
    )
    rng = np.random.default_rng(0)
    given = flatten_names(
        map_with_names(
            lambda _, x: rng.uniform(0.5, 1, x.shape).astype(np.float32), shapes
        )
    )
    encoder = {name: x for name, x in given.items() if "/encoder/" in name}
    np.savez(tmp_path / "weights.npz", **encoder)
    state = train(config, str(tmp_path / "run"))
    for weights in ("raw", "ema"):
        variables = flatten_names(state.variables(weights))
        for name, x in given.items():
            if name.startswith("params/"):
                same = np.allclose(variables[name], x, rtol=1e-5)
                assert same == (name in encoder), name
    config.init_from = "nowhere"
    config.total_steps = 2
    resumed = train(config, str(tmp_path / "run"))
    assert int(resumed.step) == 2

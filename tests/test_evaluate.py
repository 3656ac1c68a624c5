"""A pass over a split with a network of one layer: protocols, scores, worst images."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from eseg_jax import evaluate, input, models, sharding, steps
from eseg_jax.config import ConfigError, validate
from eseg_jax.protocols import Protocol


class _Network(nn.Module):
    """Classifies every second pixel."""

    @nn.compact
    def __call__(self, images, *, train):
        logits = nn.Conv(19, (1, 1), strides=(2, 2))(images)
        return {"logits": logits, "aux": {}}


def _evaluate(config, devices):
    mesh = sharding.make_mesh({"data": devices}, jax.devices()[:devices])
    model = _Network()
    variables = model.init(jax.random.key(0), np.zeros((1, 8, 8, 3)), train=False)
    eval_step = evaluate.jit_eval_step(config, model, 19, mesh)
    return evaluate.evaluate_split(eval_step, variables, config, mesh)


def test_ways_to_compile_and_to_batch_agree(tiny_config):
    tiny_config.eval.update(scales=(0.5, 1.0), flip=True)
    whole = _evaluate(tiny_config, 4)
    tiny_config.eval.size = (64, 64)  # that of the images: no resize
    network_alone = _evaluate(tiny_config, 4)
    tiny_config.eval.batch_size = 1
    one_by_one = _evaluate(tiny_config, 1)
    for other in (network_alone, one_by_one):
        np.testing.assert_array_equal(other.confusion, whole.confusion)
        assert other.scores == whole.scores
        assert [x["id"] for x in other.worst] == [x["id"] for x in whole.worst]


@pytest.mark.parametrize("size", [(), (32,), (16, 24)], ids=["own", "short", "fixed"])
def test_images_of_many_sizes_score_as_each_would_alone(tiny_config, tmp_path, size):
    """As ADE20K's: batches of one, logits brought back to each image's size."""
    draw, lines, examples = np.random.default_rng(0), [], []
    for i, (h, w) in enumerate([(20, 30), (30, 20), (25, 25), (20, 31)]):
        image = draw.integers(0, 256, (h, w, 3)).astype(np.uint8)
        label = draw.integers(0, 12, (h, w)).astype(np.uint8)
        for folder, array in (("val", image), ("valannot", label)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / folder / f"{i}.png")
        lines.append(f"val/{i}.png valannot/{i}.png")
        examples.append((image, label))
    (tmp_path / "val.txt").write_text("\n".join(lines))
    tiny_config.dataset.update(name="camvid", root=str(tmp_path))
    tiny_config.eval.update(batch_size=1, size=size)
    found = _evaluate(tiny_config, 1)

    model = _Network()
    variables = model.init(jax.random.key(0), np.zeros((1, 8, 8, 3)), train=False)
    info = models.info(tiny_config.model.name)
    predict = steps.make_predict_step(
        model, mean=info.mean, std=info.std, protocol=Protocol(size=size)
    )
    expected = np.zeros((19, 19), int)
    for image, label in examples:
        guess = np.argmax(predict(variables, image[None])[0], axis=-1)
        np.add.at(expected, (label[label < 11], guess[label < 11]), 1)
    np.testing.assert_array_equal(found.confusion, expected)
    assert len(found.scores) == 4


def test_scores_and_worst_images_by_hand(tiny_config):
    tiny_config.eval.worst = 2
    found = _evaluate(tiny_config, 4)
    assert found.confusion.dtype == np.int64
    assert [row[0] for row in found.scores] == [f"val_{i:06d}" for i in range(6)]
    truths = {
        f"val_{i:06d}": input.draw_scene(tiny_config, "val", i)[1] for i in range(6)
    }
    scores = {name: (miou, accuracy) for name, miou, accuracy in found.scores}
    expected = sorted(scores, key=lambda name: scores[name][0])[:2]
    assert [x["id"] for x in found.worst] == expected
    for example in found.worst + found.samples:
        truth, guess = truths[example["id"]], example["prediction"]
        np.testing.assert_array_equal(example["label"], truth)
        known = truth != 255
        hit = known & (truth == guess)
        classes = np.union1d(truth[known], guess[known])
        iou = [
            (hit & (truth == c)).sum() / (known & ((truth == c) | (guess == c))).sum()
            for c in classes
        ]
        miou, accuracy = scores[example["id"]]
        assert miou == example["miou"] == pytest.approx(np.mean(iou), abs=1e-12)
        assert accuracy == hit.sum() / known.sum()


def test_boundary_f_leaves_out_rows_that_fill_a_batch(tiny_config):
    tiny_config.eval.boundary = (2, 0.02)
    found = _evaluate(tiny_config, 4)  # 6 images in batches of 4
    names = input.dataset_info(tiny_config).class_names
    summary = found.summary(names)
    assert len(np.concatenate(found.boundary[2])) == 6
    # 0.02 of the diagonal of 64 x 64 is 1.8 pixels: 2.
    assert summary["boundary_f_0.02"] == summary["boundary_f_2"]
    assert 0 < summary["boundary_f_2"] < 1
    assert summary["boundary_f_class_2"].keys() == set(names)


def test_small_batches_use_as_many_devices():
    mesh = sharding.make_mesh({"data": 4})
    assert sharding.for_batches(mesh, 8) is mesh
    assert sharding.for_batches(mesh, 1).shape == {"data": 1, "spatial": 1}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scales", ()),
        ("scales", (0.5, 0.0)),
        ("average", "median"),
        ("window", (512,)),
        ("overlap", 1.0),
        ("boundary", (0.005, 0.0)),
        ("size", (1, 2, 3)),
    ],
)
def test_wrong_protocol_is_refused(tiny_config, field, value):
    tiny_config.eval[field] = value
    with pytest.raises(ConfigError, match=f"config.eval.{field}"):
        validate(tiny_config)

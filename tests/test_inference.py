"""`eseg_jax.load` on a checkpoint made for the purpose."""

import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

import eseg_jax
from eseg_jax import checkpoint, models, steps


@pytest.fixture(scope="module")
def workdir(saved_run):
    return saved_run


def _image(size=(33, 47)):
    return np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_weights_and_labels_are_the_checkpoints(workdir, weights):
    folder, model, made = workdir
    predictor = eseg_jax.load(folder, weights=weights)
    info = models.info("eseg_lite_s")
    predict = steps.make_predict_step(model, mean=info.mean, std=info.std)
    logits = np.asarray(predict(made.variables(weights), _image()[None])[0])
    found = predictor(_image())
    np.testing.assert_allclose(found.logits, logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found.labels, np.argmax(found.logits, axis=-1))
    assert found.labels.dtype == np.uint8 and found.labels.shape == (33, 47)
    assert found.class_names[:2] == ("way", "sidewalk")


def test_probabilities_confidence_and_pictures(workdir, tmp_path):
    folder, _, _ = workdir
    predictor = eseg_jax.load(folder / "checkpoints" / "7", scales=(1.0, 2.0))
    found = predictor(_image((32, 32)))
    assert found.probabilities.dtype == np.float32
    np.testing.assert_allclose(found.probabilities.sum(axis=-1), 1, rtol=1e-5)
    highest = found.probabilities.max(axis=-1)
    np.testing.assert_allclose(found.confidence, highest, rtol=1e-5)
    np.testing.assert_array_equal(found.overlay(0.0), found.image)
    np.testing.assert_array_equal(found.overlay(1.0), found.colour())
    half = found.image.astype(float) / 2 + found.colour() / 2
    np.testing.assert_array_equal(found.overlay(), np.rint(half))
    assert repr(found) == "Segmentation(32x32, 19 classes)"
    with pytest.raises(ValueError, match="alpha must lie"):
        found.overlay(2)

    Image.fromarray(found.image).save(tmp_path / "a.png")
    again = predictor(str(tmp_path / "a.png"))
    np.testing.assert_array_equal(again.labels, found.labels)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), "u1")],
)
def test_other_arrays_are_refused(workdir, image):
    with pytest.raises(ValueError, match=r"must be uint8 \[height, width, 3\]"):
        eseg_jax.load(workdir[0])(image)


def test_mistakes_are_named(workdir, tmp_path):
    folder, _, _ = workdir
    with pytest.raises(checkpoint.CheckpointError, match="holds no checkpoint"):
        eseg_jax.load(tmp_path)
    with pytest.raises(TypeError, match="no option scale; its options are weights"):
        eseg_jax.load(folder, scale=2)
    with pytest.raises(ValueError, match="ema or raw"):
        eseg_jax.load(folder, weights="best")
    with pytest.raises(ValueError, match="eseg_lite_s has no flow"):
        eseg_jax.load(folder).views(_image())


def test_a_checkpoint_without_its_configuration(workdir, tmp_path):
    shutil.copytree(checkpoint.find(workdir[0]), tmp_path / "1")
    (tmp_path / "1/meta/metadata").write_text("{}")
    with pytest.raises(checkpoint.CheckpointError, match="does not say which"):
        eseg_jax.load(tmp_path / "1")


def test_the_readmes_example(workdir, tmp_path, monkeypatch):
    readme = pathlib.Path(__file__).resolve().parents[1] / "README.md"
    block = next(
        text.split("```")[0]
        for text in readme.read_text().split("```python\n")[1:]
        if "eseg_jax.load" in text.split("```")[0]
    )
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "scenes").symlink_to(workdir[0])
    Image.fromarray(_image()).save(tmp_path / "street.jpg")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    assert names["found"].labels.shape == (33, 47)
    assert names["found"].overlay().shape == (33, 47, 3)

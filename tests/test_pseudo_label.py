"""Pseudo-labels: the rule that keeps pixels, the folder, restarts."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

from eseg_jax import (
    inference,
    input,
    models,
    protocols,
    pseudo_label,
    pseudo_output,
    steps,
)
from eseg_jax.input import pseudo, pseudo_records, unlabelled
from eseg_jax.ops.resize import resize_bilinear
from eseg_jax.ops.resize_inside import resize_inside

_SIZES = ((40, 64), (33, 47), (40, 64), (33, 47), (40, 64))


class _Network:
    """Looks at every second pixel and, as squeeze-and-excitation does, at them all."""

    def apply(self, variables, images, train):
        mean = jnp.mean(images, axis=(1, 2), keepdims=True)
        return {"logits": (images[:, ::2, ::2] + mean) @ variables["params"]["kernel"]}


def _network():
    import tiny

    config = tiny.get_config()
    kernel = np.random.default_rng(0).normal(size=(3, 19)).astype(np.float32)
    dataset = input.dataset_info(config)
    return inference.Network(
        _Network(),
        {"params": {"kernel": jnp.asarray(kernel)}},
        config,
        epath.Path("run/checkpoints/7"),
        dataset.class_names,
        dataset.colours,
    )


@pytest.fixture(scope="module", autouse=True)
def teacher():
    """In place of a trained network: what every workdir holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "load_network", lambda path, weights: _network())
        yield "unused"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Five images of two sizes in two folders, and a broken one."""
    root = tmp_path_factory.mktemp("images")
    for number, size in enumerate(_SIZES):
        noise = np.random.default_rng(number).integers(0, 256, (*size, 3))
        path = root / f"part{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noise.astype(np.uint8)).save(path)
    (root / "part0" / "torn.png").write_bytes(path.read_bytes()[:300])
    return root


@pytest.fixture
def options(tiny_config, images):
    tiny_config.pseudo.images = str(images)
    tiny_config.pseudo.scales = (0.5, 1.0)
    tiny_config.pseudo.threshold = 0.3
    tiny_config.compilation_cache = ""
    return tiny_config


def _files(folder):
    folder = pathlib.Path(folder)
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _png(path):
    return np.asarray(Image.open(path))


# ---------------------------------------------------------------------------- the rule


def test_levels_and_255_are_exact():
    # Kept where the byte is above 255 * threshold.
    for threshold, lowest in ((0, 1), (0.5, 128), (0.6, 154), (100 / 255, 101)):
        assert pseudo.level(threshold) == lowest
    assert pseudo.level(1) == 256  # above every byte
    argmax = np.array([[0, 0, 0], [1, 1, 1]], np.uint8)
    confidence = np.array([[127, 128, 255], [200, 254, 255]], np.uint8)
    found = pseudo.keep(argmax, confidence, pseudo.levels(0.5, (), 2))
    np.testing.assert_array_equal(found, [[255, 0, 0], [1, 1, 1]])
    assert found.dtype == np.uint8
    found = pseudo.keep(argmax, confidence, pseudo.levels(0.5, (1, 0.999), 2))
    np.testing.assert_array_equal(found, [[255, 255, 255], [255, 255, 1]])
    with pytest.raises(input.InputError, match="3 class thresholds and 2 classes"):
        pseudo.levels(0.5, (0.1, 0.2, 0.3), 2)


def test_top_levels_keep_at_least_the_fraction():
    histogram = np.zeros((3, 256), np.int64)
    histogram[0, [10, 20, 30, 40]] = (1, 2, 3, 4)
    histogram[1, [10, 255]] = (1, 9)  # a tenth is wanted, but nine share a byte
    found = pseudo.top_levels(histogram, 0.5)
    assert found.tolist()[:2] == [30, 255]
    assert pseudo.top_levels(histogram, 0.4)[0] == 40
    assert pseudo.top_levels(histogram, 1)[0] == 10


def _slow_answer(probabilities):
    """argmax and confidence byte of float64 [h, w, c], pixel by pixel."""
    h, w, _ = probabilities.shape
    argmax, confidence = np.zeros((h, w), np.uint8), np.zeros((h, w), np.uint8)
    for i in range(h):
        for j in range(w):
            argmax[i, j] = probabilities[i, j].argmax()
            confidence[i, j] = int(255 * probabilities[i, j].max() + 0.5)
    return argmax, confidence


def test_label_step_is_the_rounded_mean_of_probabilities():
    network = _network()
    info = models.info("eseg_lite_s")
    norm = {"mean": info.mean, "std": info.std}
    protocol = protocols.Protocol(scales=(0.5, 1.0), flip=True)
    image = np.random.default_rng(1).integers(0, 256, (1, 32, 48, 3)).astype(np.uint8)
    # What each pass says, by the test of a single scale; mean and rounding by hand.
    passes = []
    for scale in (0.5, 1.0):
        for step in (1, -1):
            one = protocols.Protocol(scales=(scale,))
            predict = steps.make_predict_step(network.model, **norm, protocol=one)
            logits = predict(network.variables, image[:, :, ::step])
            passes.append(np.asarray(logits, np.float64)[0, :, ::step])
    e = [np.exp(x - x.max(axis=-1, keepdims=True)) for x in passes]
    mean = np.mean([x / x.sum(axis=-1, keepdims=True) for x in e], axis=0)
    argmax, confidence = _slow_answer(mean)
    step = steps.make_label_step(network.model, **norm, protocol=protocol, stretch=0)
    found = step(network.variables, image, np.array([[32, 48]], np.int32))
    # A probability next to a half step may round the other way.
    near = np.abs(255 * mean.max(axis=-1) % 1 - 0.5) < 1e-2
    assert near.mean() < 0.1 and len(np.unique(argmax)) > 2
    np.testing.assert_array_equal(found["confidence"][0][~near], confidence[~near])
    top = np.sort(mean, axis=-1)
    clear = top[..., -1] - top[..., -2] > 1e-5
    np.testing.assert_array_equal(found["argmax"][0][clear], argmax[clear])


def test_resize_inside_equals_resize_and_ignores_the_rest():
    x = np.random.default_rng(0).normal(size=(2, 9, 12, 2)).astype(np.float32)
    sizes = np.array([[5, 7], [9, 12]], np.int32)
    targets = np.array([[9, 12], [4, 12]], np.int32)
    found = jax.jit(resize_inside)(x, sizes, targets)
    for row in range(2):
        (h, w), (th, tw) = sizes[row], targets[row]
        wanted = resize_bilinear(jnp.asarray(x[row : row + 1, :h, :w]), (th, tw))
        np.testing.assert_allclose(found[row, :th, :tw], wanted[0], atol=1e-5)


# -------------------------------------------------------------------------- the folder


@pytest.fixture(scope="module")
def whole(teacher, images, tmp_path_factory):
    """The folder that an unbroken run makes, and its pseudo.json."""
    import tiny

    config = tiny.get_config()
    config.pseudo.images = str(images)
    config.pseudo.update(scales=(0.5, 1.0), threshold=0.3)
    out = tmp_path_factory.mktemp("whole") / "out"
    config.pseudo.output = str(out)
    return out, pseudo_label.pseudo_label(config, str(teacher))


def test_folder_mirrors_the_images_and_counts_them(whole, images):
    out, meta = whole
    names = ["part0/0", "part0/2", "part0/4", "part1/1", "part1/3"]
    for folder in ("argmax", "confidence", "labels"):
        found = {f for f in _files(out) if f.startswith(folder + "/")}
        assert found == {f"{folder}/{name}.png" for name in names}
    kept = total = 0
    for name in names:
        argmax, confidence, label = (
            _png(out / folder / f"{name}.png")
            for folder in ("argmax", "confidence", "labels")
        )
        assert label.dtype == np.uint8 and label.shape == _SIZES[int(name[-1])]
        np.testing.assert_array_equal(
            label, np.where(confidence > 255 * 0.3, argmax, 255)
        )
        kept, total = kept + (label != 255).sum(), total + label.size
    assert 0 < kept < total
    assert meta["pixels"] == total and meta["coverage"] == kept / total
    assert sum(c["kept"] for c in meta["classes"].values()) == kept
    assert meta["images"] == 5
    (broken,) = meta["broken"]
    assert broken.startswith("part0/torn.png: ")
    assert meta["trained_on"] == [{"dataset": "scenes", "split": "train", "root": ""}]
    assert meta["teacher"]["checkpoint"].endswith("checkpoints/7")
    assert not list(out.glob("parts*")) and not list(out.rglob("*.partial"))
    assert _png(out / "contact_sheet.png").shape[1:] == (960, 3)


def test_runs_renamed_to_each_others_names_have_a_finite_past(monkeypatch):
    import tiny

    config = tiny.get_config()
    config.init_from = "a"
    meta = {"config": json.dumps(config.to_dict())}
    monkeypatch.setattr(pseudo_label.checkpoint, "find", epath.Path)
    monkeypatch.setattr(pseudo_label.checkpoint, "read_meta", lambda folder: meta)
    own = {"dataset": "scenes", "split": "train", "root": ""}
    assert pseudo_label.trained_on(config) == [own, own]


def test_stretched_images_cost_one_program_for_all_sizes(teacher, options, tmp_path):
    options.pseudo.update(output=str(tmp_path / "out"), size_step=64, batch_size=2)
    pseudo_label.pseudo_label(options, str(teacher))
    for name in ("part0/0", "part1/1"):
        assert _png(tmp_path / f"out/labels/{name}.png").shape == _SIZES[int(name[-1])]


@pytest.mark.parametrize("stop_after", [1, 3])
def test_stopped_and_started_again_equals_unbroken(
    whole, teacher, options, tmp_path, monkeypatch, stop_after
):
    out = tmp_path / "out"
    options.pseudo.output = str(out)
    save, count = pseudo_output._save, 0

    def dying(*args, **kwargs):
        nonlocal count
        count += 1
        if count > stop_after:
            raise KeyboardInterrupt
        return save(*args, **kwargs)

    monkeypatch.setattr(pseudo_label, "_UNIT", 1)
    monkeypatch.setattr(pseudo_output, "_save", dying)
    with pytest.raises(KeyboardInterrupt):
        pseudo_label.pseudo_label(options, str(teacher))
    with pytest.raises(input.InputError, match="are not complete"):
        pseudo.read_meta(out)
    (part,) = (out / "parts").glob("*.jsonl")
    with part.open("ab") as file:
        file.write(b'{"name": "par')  # a line that the end of the process cut
    monkeypatch.setattr(pseudo_output, "_save", save)
    pseudo_label.pseudo_label(options, str(teacher))
    assert _files(out) == _files(whole[0])
    # Started once more it finds nothing to do and leaves all as it is.
    pseudo_label.pseudo_label(options, str(teacher))
    assert _files(out) == _files(whole[0])


def test_shards_hold_what_files_hold(teacher, whole, options, images, tmp_path):
    out = tmp_path / "out"
    options.pseudo.update(output=str(out), shard_images=4)
    meta = pseudo_label.pseudo_label(options, str(teacher))
    assert {file for file in _files(out) if not file.startswith("records/")} == {
        "manifest.jsonl",
        "pseudo.json",
        "contact_sheet.png",
    }
    assert sorted(_files(out / "records")) == ["000000.tfrecord", "000001.tfrecord"]
    for name in ("coverage", "pixels", "classes", "broken"):
        assert meta[name] == whole[1][name]
    sheet = "contact_sheet.png"
    assert (out / sheet).read_bytes() == (whole[0] / sheet).read_bytes()
    for line in pseudo.read_manifest(out):
        if "broken" in line:
            continue
        for a, b in zip(
            pseudo.read_answer(out, line),
            pseudo.read_answer(whole[0], {"name": line["name"]}),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)
        data = pseudo_records.read(out, line)["image"]
        assert data == (images / line["image"]).read_bytes()


def test_stopped_shards_are_made_again(whole, teacher, options, tmp_path, monkeypatch):
    outs = [tmp_path / "unbroken", tmp_path / "stopped"]
    options.pseudo.update(output=str(outs[0]), shard_images=1)
    pseudo_label.pseudo_label(options, str(teacher))
    options.pseudo.output = str(outs[1])
    write = pseudo_output._write_shard

    def dying(out, number, answers):
        if number == 3:
            raise KeyboardInterrupt
        return write(out, number, answers)

    with monkeypatch.context() as patch:
        patch.setattr(pseudo_output, "_write_shard", dying)
        with pytest.raises(KeyboardInterrupt):
            pseudo_label.pseudo_label(options, str(teacher))
    pseudo_label.pseudo_label(options, str(teacher))
    assert _files(outs[1]) == _files(outs[0])


def test_records_of_tfds_are_labelled(teacher, whole, options, images, tmp_path):
    info = input.datasets.get("camvid")
    options.dataset.update(name="camvid", source="tfds", root=str(tmp_path))
    options.pseudo.update(images="", split="train", output=str(tmp_path / "out"))
    folder = tmp_path / info.records.folder / "1.0.0"
    folder.mkdir(parents=True)
    kind = info.labels[0].name.encode()
    names = ("part0/0", "part1/1")
    data, _ = pseudo_records.pack(
        [
            {
                "id": name.encode(),
                "kind": kind,
                "image": (images / f"{name}.png").read_bytes(),
                "label": b"",
            }
            for name in names
        ]
    )
    (folder / "camvid-train.tfrecord-00000-of-00001").write_bytes(data)
    meta = pseudo_label.pseudo_label(options, str(teacher))
    assert meta["labelled"]["dataset"] == "camvid" and meta["images"] == 2
    for name in names:
        image = _png(tmp_path / f"out/images/{name}.png")
        np.testing.assert_array_equal(image, _png(images / f"{name}.png"))
        argmax = _png(tmp_path / f"out/argmax/{name}.png")
        np.testing.assert_array_equal(argmax, _png(whole[0] / f"argmax/{name}.png"))


def test_other_settings_are_refused(whole, teacher, options):
    options.pseudo.output = str(whole[0])
    options.pseudo.threshold = 0.4
    with pytest.raises(input.InputError, match="differ in threshold"):
        pseudo_label.pseudo_label(options, str(teacher))


def test_top_fraction_keeps_the_surest_pixels(whole, teacher, options, tmp_path):
    options.pseudo.update(output=str(tmp_path / "out"), threshold=0.0, top_fraction=0.2)
    meta = pseudo_label.pseudo_label(options, str(teacher))
    levels = {i: c["level"] for i, c in enumerate(meta["classes"].values())}
    for record in pseudo.read_manifest(tmp_path / "out"):
        if "broken" in record:
            continue
        argmax, confidence = pseudo.read_answer(tmp_path / "out", record)
        lowest = np.vectorize(levels.get)(argmax)
        label = _png(tmp_path / f"out/labels/{record['name']}.png")
        np.testing.assert_array_equal(
            label, np.where(confidence >= lowest, argmax, 255)
        )
    assert 0.2 <= meta["coverage"] < 0.5
    for found in meta["classes"].values():
        assert not found["predicted"] or found["coverage"] >= 0.2


def test_scenes_bring_their_images(teacher, tiny_config, tmp_path):
    tiny_config.dataset.train_images = 2
    tiny_config.pseudo.update(split="train", output=str(tmp_path), scales=(1.0,))
    meta = pseudo_label.pseudo_label(tiny_config, str(teacher))
    image, _ = input.draw_scene(tiny_config, "train", 1)
    np.testing.assert_array_equal(_png(tmp_path / "images/train_000001.png"), image)
    assert meta["labelled"] == {"name": "train", "dataset": "scenes", "split": "train"}


def test_inputs_that_stand_for_nothing(tiny_config, tmp_path):
    for text in (tmp_path, tmp_path / "*.jpg"):
        tiny_config.pseudo.images = str(text)
        with pytest.raises(input.InputError, match="finds no image"):
            unlabelled.find(tiny_config)
    tiny_config.pseudo.images = str(tmp_path / "nowhere")
    with pytest.raises(input.InputError, match="no folder and no pattern"):
        unlabelled.find(tiny_config)


def test_one_stem_twice_keeps_its_suffix(tiny_config, tmp_path):
    for name in ("a.png", "a.jpg", "b.png"):
        (tmp_path / name).write_bytes(b"")
    tiny_config.pseudo.images = str(tmp_path)
    _, items, _ = unlabelled.find(tiny_config)
    assert [item.name for item in items] == ["a.jpg", "a.png", "b"]
    tiny_config.pseudo.images = str(tmp_path / "*.png")
    _, items, _ = unlabelled.find(tiny_config)
    assert [item.name for item in items] == ["a", "b"]


def test_pseudo_json_is_json(whole):
    out, meta = whole
    assert json.loads((out / "pseudo.json").read_text()) == json.loads(json.dumps(meta))

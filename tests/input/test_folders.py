import dataclasses

import numpy as np
import pytest
from PIL import Image

from eseg_jax.input import datasets, folders
from eseg_jax.input.datasets import Example
from eseg_jax.input.tf_cpu import tf

CITYSCAPES = datasets.DATASETS["cityscapes"]
CAMVID = datasets.DATASETS["camvid"]
INDEX = CAMVID.labels[0]
LABEL_IDS, TRAIN_IDS = CITYSCAPES.labels


def _photo(height, width, seed=0):
    """A smooth random image, so that JPEG keeps most of it."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.array(Image.fromarray(small).resize((width, height)))


# ------------------------------------------------------------------------------ labels


def _label(path, kind, *args, **options):
    data = tf.io.read_file(str(path))
    return folders.decode_label(data, kind, *args, **options).numpy()


def _image(path, *args, **options):
    return folders.decode_image(tf.io.read_file(str(path)), *args, **options).numpy()


def _mapped(path, kind):
    return kind.table()[_label(path, kind)]


def test_real_camvid_label_at_known_pixels(real_data):
    label = _mapped(real_data / "camvid480/trainannot/0001TP_006690.png", INDEX)
    assert label.shape == (360, 480)
    names = {(10, 240): "Sky", (0, 0): "Building", (300, 240): "Car"}
    names |= {(359, 0): "Pavement"}
    for (y, x), name in names.items():
        assert CAMVID.class_names[label[y, x]] == name
    assert label[359, 479] == 255  # the own bonnet is void


def test_real_cityscapes_label_at_known_pixels(real_data):
    stem = "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png"
    label = _mapped(real_data / "cityscapes_mini" / stem, LABEL_IDS)
    assert label.shape == (1024, 2048)
    names = {(800, 1000): "road", (512, 1024): "car", (100, 1000): "vegetation"}
    names |= {(600, 1600): "sidewalk"}
    for (y, x), name in names.items():
        assert CITYSCAPES.class_names[label[y, x]] == name
    assert label[1020, 1000] == 255  # the own bonnet


def test_one_id_out_of_range_anywhere_fails(save, tmp_path):
    label = np.zeros((9, 7), np.uint8)
    label[8, 6] = 12
    save(tmp_path / "a.png", label)
    with pytest.raises(tf.errors.InvalidArgumentError):
        _label(tmp_path / "a.png", INDEX)
    label[8, 6] = 11
    save(tmp_path / "a.png", label)
    np.testing.assert_array_equal(_label(tmp_path / "a.png", INDEX), label)


def test_ranges_with_a_gap(save, tmp_path):
    label = np.array([[0, 18, 255]], np.uint8)
    save(tmp_path / "a.png", label)
    _label(tmp_path / "a.png", TRAIN_IDS)
    for bad in (19, 254):
        label[0, 1] = bad
        save(tmp_path / "a.png", label)
        with pytest.raises(tf.errors.InvalidArgumentError):
            _label(tmp_path / "a.png", TRAIN_IDS)


# ------------------------------------------------------------------------------ images


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("decode_whole", [False, True])
def test_box_is_the_same_as_cropping_the_whole(save, tmp_path, suffix, decode_whole):
    path = tmp_path / f"a{suffix}"
    options = {} if suffix == ".png" else {"quality": 95, "subsampling": 0}
    save(path, _photo(50, 70), **options)
    whole = _image(path)
    np.testing.assert_array_equal(whole, np.array(Image.open(path)))
    for box in ((0, 0, 50, 70), (13, 21, 30, 11), (49, 69, 1, 1)):
        part = _image(path, tf.constant(box), decode_whole=decode_whole)
        y, x, h, w = box
        np.testing.assert_array_equal(part, whole[y : y + h, x : x + w])


def test_progressive_jpeg_equals_pillow(real_data):
    path = real_data / "camvid480/train/0001TP_006690.jpg"
    image = _image(path)
    with Image.open(path) as reference:
        assert reference.info["progressive"]
        np.testing.assert_array_equal(image, np.array(reference))


def test_the_content_decides_the_format_not_the_name(save, tmp_path):
    save(tmp_path / "a.png", _photo(8, 8), format="JPEG")
    image = _image(tmp_path / "a.png")
    np.testing.assert_array_equal(image, np.array(Image.open(tmp_path / "a.png")))


def test_grey_images_become_three_equal_channels(save, tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    save(tmp_path / "a.png", grey)
    image = _image(tmp_path / "a.png")
    np.testing.assert_array_equal(image, np.stack([grey] * 3, axis=-1))


# ---------------------------------------------------------------------------- problems


@pytest.fixture
def pair(save, tmp_path):
    """A good CamVid pair of 12x16."""
    example = Example("a", str(tmp_path / "image.png"), str(tmp_path / "label.png"))
    save(tmp_path / "image.png", _photo(12, 16))
    save(tmp_path / "label.png", np.full((12, 16), 3, np.uint8))
    return example


def _truncate(path, share=0.6):
    with open(path, "rb") as file:
        data = file.read()
    with open(path, "wb") as file:
        file.write(data[: int(len(data) * share)])


def _problem(example, info=CAMVID, kind=INDEX):
    problem = folders.problem(info, kind, example)
    assert problem is None or (problem.endswith(".") and "\n" not in problem)
    return problem


def test_good_pair_has_no_problem(pair):
    assert _problem(pair) is None


def test_size_mismatch_names_both_files_and_sizes(pair, save, tmp_path):
    save(tmp_path / "label.png", np.zeros((16, 12), np.uint8))
    problem = _problem(pair)
    assert f"Image {pair.image} is 16x12 but its label {pair.label} is 12x16" in problem


def test_id_out_of_range_names_file_value_and_range(pair, save, tmp_path):
    label = np.zeros((12, 16), np.uint8)
    label[5, 5] = 47
    save(tmp_path / "label.png", label)
    problem = _problem(pair)
    assert f"Label {pair.label} holds the value 47" in problem and "0-11" in problem


def test_label_ids_where_train_ids_are_expected(pair, save, tmp_path):
    save(tmp_path / "label.png", np.full((12, 16), 26, np.uint8))
    problem = _problem(pair, CITYSCAPES, TRAIN_IDS)
    assert "these look like labelIds, not trainIds" in problem


@pytest.mark.parametrize("which", ["image", "label"])
def test_truncated_png_is_named(pair, which):
    path = getattr(pair, which)
    _truncate(path)
    problem = _problem(pair)
    assert f"{which.capitalize()} {path} cannot be decoded: it is truncated" in problem


@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_jpeg_is_named(pair, save, tmp_path, progressive):
    save(tmp_path / "image.png", _photo(12, 16), format="JPEG", progressive=progressive)
    assert _problem(pair) is None
    _truncate(pair.image, 0.9)
    assert f"Image {pair.image} cannot be decoded" in _problem(pair)


def test_missing_empty_and_foreign_files_are_named(pair, tmp_path):
    (tmp_path / "image.png").write_bytes(b"GIF89a" + bytes(100))
    assert "image.png is neither a PNG nor a JPEG" in _problem(pair)
    (tmp_path / "image.png").write_bytes(b"")
    assert f"Image {pair.image} is empty" in _problem(pair)
    (tmp_path / "image.png").unlink()
    assert f"Image {pair.image} cannot be read: " in _problem(pair)
    (tmp_path / "label.png").write_bytes(b"\xff\xd8\xff" + bytes(100))
    (tmp_path / "image.png").write_bytes(b"\xff\xd8\xff")
    assert f"Label {pair.label} is not a PNG file" in _problem(pair)


def _palette(colours: int) -> Image.Image:
    image = Image.new("P", (16, 12), 3)
    image.putpalette(range(3 * colours))
    return image


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image.new("I;16", (16, 12), 3), "a PNG of 16-bit grey pixels"),
        (_palette(16), "a PNG of 4-bit palette pixels"),
        (Image.new("1", (16, 12), 1), "a PNG of 1-bit grey pixels"),
        (Image.new("LA", (16, 12), (3, 255)), "a PNG of 8-bit grey+alpha pixels"),
        (Image.new("RGBA", (16, 12)), "a PNG of 8-bit RGBA pixels"),
        (Image.new("RGB", (16, 12)), "a PNG of 8-bit RGB pixels"),
    ],
)
def test_label_formats_whose_values_decoders_change(pair, image, words):
    image.save(pair.label)
    assert words in _problem(pair)
    with pytest.raises(tf.errors.InvalidArgumentError):
        _label(pair.label, INDEX)


@pytest.mark.parametrize("options", [{}, {"transparency": bytes(range(64))}])
def test_palette_labels_are_their_indices(tmp_path, options):
    # Colours that TensorFlow's own decoder would return as other greys.
    label = (np.arange(12 * 16) % 12).astype(np.uint8).reshape(12, 16)
    image = Image.fromarray(label).convert("P")
    image.putpalette([(7 * i + 3) % 256 for i in range(3 * 64)])
    path = tmp_path / "a.png"
    image.save(path, bits=8, **options)
    assert path.read_bytes()[24:26] == b"\x08\x03"
    np.testing.assert_array_equal(_label(path, INDEX), label)


def test_colour_labels(save, tmp_path):
    merged = datasets.DATASETS["camvid_720_merged"]
    colours = [[(128, 128, 128), (64, 192, 0)], [(192, 0, 192), (0, 0, 0)]]
    for mode in ("RGB", "RGBA", "P"):
        image = Image.fromarray(np.array(colours, np.uint8))
        image = image.quantize(8) if mode == "P" else image.convert(mode)
        image.save(tmp_path / "a.png", **({"bits": 8} if mode == "P" else {}))
        names = np.array([*merged.class_names, "ignored"])
        (kind,) = merged.labels
        label = np.minimum(_mapped(tmp_path / "a.png", kind), 11)
        assert names[label].tolist() == [["Sky", "Building"], ["Bicyclist", "ignored"]]


def test_unlisted_colours_fail_unless_the_kind_ignores_them(save, tmp_path):
    listed = datasets.LabelKind("masks", "", {0: 0, 1: 1}, ((9, 9, 9), (1, 2, 3)))
    with_others = dataclasses.replace(listed, mapping=listed.mapping | {255: 255})
    path = tmp_path / "a.png"
    save(path, np.array([[(1, 2, 3), (9, 9, 9), (9, 9, 8)]], np.uint8))
    assert _mapped(path, with_others).tolist() == [[1, 0, 255]]
    with pytest.raises(tf.errors.InvalidArgumentError):
        _label(path, listed)
    example = Example("a", str(path), str(path))
    problem = folders.problem(CAMVID, listed, example)
    assert problem.startswith(f"Label {path} holds colours that")

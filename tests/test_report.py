"""Panels by hand, charts by hand, and a page that is whole."""

import html.parser
import re

import numpy as np
import pytest

from eseg_jax.report import charts, page, panels

COLOURS = np.array([[128, 64, 128], [70, 130, 180]], np.uint8)
VOID_ELEMENTS = {"meta", "img", "br"}

# ---------------------------------------------------------------- panels


def test_colourise_paints_ids_and_leaves_the_rest_black():
    labels = np.array([[0, 1], [255, 2]], np.uint8)
    expected = [[[128, 64, 128], [70, 130, 180]], [[0, 0, 0], [0, 0, 0]]]
    assert panels.colourise(labels, COLOURS).tolist() == expected


def test_panel_pixels():
    image = np.array([[[30, 60, 90], [255, 255, 255], [0, 0, 0]]], np.uint8)
    label = np.array([[0, 1, 255]], np.uint8)
    prediction = np.array([[0, 0, 1]], np.uint8)
    pixels = panels.panel(image, label, prediction, COLOURS, ["road", "sky"])
    # A title of 24 rows, then tiles 3 wide and 4 apart.
    tiles = [pixels[24:25, x : x + 3] for x in (0, 7, 14, 21)]
    road, sky, black = [128, 64, 128], [70, 130, 180], [0, 0, 0]
    grey = 180 // 6 + 64
    assert tiles[0].tolist() == image.tolist()
    assert tiles[1].tolist() == [[road, sky, black]]
    assert tiles[2].tolist() == [[road, road, sky]]
    assert tiles[3].tolist() == [[[grey] * 3, [226, 42, 42], black]]


def test_legend_names_the_classes_that_occur():
    image = np.zeros((40, 90, 3), np.uint8)
    maps = np.zeros((40, 90), np.uint8)
    pixels = panels.panel(image, maps, maps, COLOURS, ["road", "sky"])
    legend = pixels[24 + 40 :].reshape(-1, 3).tolist()
    assert [128, 64, 128] in legend  # road
    assert [226, 42, 42] in legend  # wrong
    assert [70, 130, 180] not in legend  # no sky in this picture


def test_panel_survives_its_png():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, 7, 3), np.uint8)
    label, prediction = rng.integers(0, 2, (2, 5, 7), np.uint8)
    pixels = panels.panel(image, label, prediction, COLOURS, ["road", "sky"])
    tiles = panels.decode(panels.encode(pixels, (5, 7)))
    assert list(tiles) == ["input", "truth", "prediction", "error"]
    np.testing.assert_array_equal(tiles["input"], image)
    np.testing.assert_array_equal(
        tiles["prediction"], panels.colourise(prediction, COLOURS)
    )


def test_thin_keeps_image_and_labels_aligned():
    labels = np.arange(10, dtype=np.uint8).reshape(2, 5)
    image = np.repeat(labels[..., None], 3, axis=-1)
    assert panels.thin(labels, 5).tolist() == labels.tolist()
    assert panels.thin(labels, 4).tolist() == [[0, 2, 4]]
    # Means of the 2 x 2 blocks (0 1 5 6), (2 3 7 8) and (4 9), rounded.
    assert panels.thin(image, 4)[..., 0].tolist() == [[3, 5, 7]]


# ---------------------------------------------------------------- charts


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0, 0.08, 5, [0, 0.02, 0.04, 0.06, 0.08]),
        (0, 58.3, 5, [0, 20, 40, 60]),
        (0, 4000, 6, [0, 1000, 2000, 3000, 4000]),
        (-1, 1, 5, [-1, -0.5, 0, 0.5, 1]),
        (0, 0, 5, [0, 0.2]),
    ],
)
def test_ticks(low, high, count, expected):
    assert charts.ticks(low, high, count) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (0.08, "0.08"),
        (5e-5, "5e-5"),
        (12.345, "12.3"),
        (1250, "1,250"),
        (90_000, "90k"),
        (2.5e6, "2.5M"),
    ],
)
def test_number(value, expected):
    assert charts.number(value) == expected


def test_smooth_is_a_centred_mean():
    points = [(float(x), float(x % 2)) for x in range(160)]  # reach 2: five points
    smoothed = charts.smooth(points)
    assert smoothed[10] == (10.0, pytest.approx(2 / 5))  # 0 1 0 1 0
    assert smoothed[11] == (11.0, pytest.approx(3 / 5))
    assert smoothed[0] == (0.0, pytest.approx(1 / 3))  # 0 1 0
    assert charts.smooth(points[:40]) == points[:40]


def test_curve_touches_the_corners_of_its_axes():
    figure = charts.lines("Loss", {"": [(0, 0.0), (10, 5.0)]}, end=10)
    # 530 x 236 with margins of 46 left, 12 right, 10 top and 26 bottom.
    assert 'class="line s0" d="M46.0 210.0L518.0 10.0h0"' in figure


def test_confusion_cells_are_shares_of_their_row():
    svg = charts.confusion(np.array([[3, 1], [0, 0]]), ["a<b", "sky"])
    assert "<title>a&lt;b as a&lt;b: 75.00 % (3 pixels)</title>" in svg
    assert "<title>a&lt;b as sky: 25.00 % (1 pixels)</title>" in svg
    assert svg.count("<g>") == 2  # nothing for the class without pixels
    assert 'class="wrong"' in svg and 'fill-opacity="0.500"' in svg


# ---------------------------------------------------------------- the page


class Balance(html.parser.HTMLParser):
    """Collects the texts and checks that every element is closed where it should."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.sources = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)
        self.sources += [v for k, v in attributes if k in ("src", "href")]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def parse(text: str) -> Balance:
    parser = Balance()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def make_run(**changes) -> page.Run:
    tile = np.zeros((6, 8, 3), np.uint8)
    tile[:3] = COLOURS[0]
    names = ["road <main>", "sky"]
    train = {"split": "train", "loss": 0.5, "learning_rate": 0.1, "aux/p4": 0.25}
    val = {"split": "val", "weights": "ema", "pixel_accuracy": 0.9}
    seconds = {"compile": 5.0, "step": 60.0, "input": 15.0, "evaluation": 20.0}
    arguments = {
        "config": {"model": {"name": "eseg_s"}, "dataset": {"name": "camvid"}},
        "header": {"versions": {"jax": "0.10.2"}, "parameters": "stem 864\ntotal 864"},
        "class_names": names,
        "colours": COLOURS,
        "step": 3,
        "total_steps": 4,
        "batch_size": 2,
        "num_chips": 2,
        "records": [
            {"step": 1, **train},
            {"step": 2, "miou": 0.6, "iou": {names[0]: 0.6, "sky": None}, **val},
            {"step": 2, **train},
            {"step": 3, "miou": 0.55, "iou": {names[0]: 0.55, "sky": None}, **val},
        ],
        "timing": [{"step": 3, "seconds": seconds, "images_per_second": 30.0}],
        "confusion": (3, np.array([[3, 1], [0, 0]])),
        "pictures": {"ulm": (3, dict.fromkeys(panels.TILES, tile))},
        "film": {"ulm": {2: tile, 3: tile}},
    }
    return page.Run(**(arguments | changes))


def test_page_has_every_piece_and_nothing_outside():
    text = page.page(make_run())
    parsed = parse(text)
    texts = " ".join(" ".join(parsed.texts).split())
    for piece in (
        "in progress · step 3 of 4",
        "eseg_s on camvid",
        "best mIoU, val 60.00 % step 2",
        "last mIoU, val 55.00 % step 3",
        "pixel accuracy 90.00 %",
        "images/s 30 15 per chip · 2 chips",
        "wall time 0:01:40",
        "Loss 0.5",
        "Learning rate 0.1",
        "aux/p4 0.25",
        "road <main> 55.0 100.0",
        "sky – 0.0",
        "road <main> as sky: 25.00 % (1 pixels)",
        "input truth prediction error",
        "ulm, step 3",
        "training step 60.0 % 0:01:00",
        "input wait 15.0 %",
        "versions jax 0.10.2",
        '"name": "eseg_s"',
        "stem 864 total 864",
    ):
        assert piece in texts, piece
    # Four tiles and one earlier prediction, all inlined.
    assert len(parsed.sources) == 5
    assert all(source.startswith("data:image/") for source in parsed.sources)
    assert not re.search(r"https?://|@import|url\(", text)


def test_legend_of_the_pictures_has_the_classes_in_them():
    text = page.page(make_run())
    (legend,) = re.findall(r'<ul class="legend">(.*?)</ul>', text)
    assert "road &lt;main&gt;" in legend and "sky" not in legend


def test_page_of_a_run_that_has_only_begun():
    empty = {"records": [], "timing": [], "confusion": None, "pictures": {}, "film": {}}
    parsed = parse(page.page(make_run(step=0, config={}, **empty)))
    assert "no data yet" in parsed.texts
    assert "Training run" in parsed.texts


def test_page_of_150_classes():
    names = [f"class {i}" for i in range(150)]
    matrix = np.random.default_rng(0).multinomial(10_000, [1 / 150] * 150, size=150)
    iou = dict.fromkeys(names, 0.5)
    run = make_run(
        class_names=names,
        colours=np.zeros((150, 3), np.uint8),
        records=[{"step": 1, "split": "val", "miou": 0.5, "iou": iou}],
        confusion=(1, matrix),
    )
    text = page.page(run)
    parse(text)
    assert "class 149 as class 149" in text
    assert len(text) < 8e6


def test_main_series_is_the_validation():
    records = [
        {"step": 1, "split": "train", "loss": 1.0},
        {"step": 1, "split": "minival", "miou": 0.3},
        {"step": 1, "split": "val", "miou": 0.4, "weights": "ema"},
    ]
    assert page.main_series(records) == "val ema"
    assert page.main_series(records[:2]) == "minival"
    assert page.main_series(records[:1]) is None


def test_spread_keeps_both_ends():
    assert page.spread(range(3), 8) == [0, 1, 2]
    assert page.spread(range(100), 4) == [0, 33, 66, 99]


def test_duration():
    assert page.duration(59.6) == "0:01:00"
    assert page.duration(100 * 3600 + 61) == "100:01:01"

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eseg_jax.metrics import boundary_counts, boundary_f, boundary_radius

THRESHOLDS = ("0.0005", "0.001875", "0.00375", "0.005", "0.02", "3.0")


def test_radius_is_a_share_of_the_diagonal_rounded_up():
    thresholds = (0.0005, 0.001875, 0.00375, 0.005)
    assert [boundary_radius(t, 1024, 2048) for t in thresholds] == [2, 5, 9, 12]
    assert boundary_radius(3.0, 10, 10) == 3


def test_counts_by_hand():
    # A square of class 1 whose prediction lies one column to the right.
    label = np.zeros((1, 6, 8), np.uint8)
    label[0, 2:4, 2:4] = 1
    prediction = np.roll(label, 1, axis=2)
    for radius, near in ((0, 4), (1, 8)):
        counts = boundary_counts(label, prediction, 2, radius)
        # Left and above a square its neighbours count, inside it the last ones.
        assert counts[0, 1].tolist() == [8, near, 8, near]


def test_an_ignored_pixel_belongs_to_no_class():
    label = np.zeros((1, 4, 4), np.uint8)
    label[0, 1, 1] = 255
    counts = boundary_counts(label, np.zeros((1, 4, 4), np.uint8), 1, 1)
    assert counts.tolist() == [[[4, 4, 4, 4]]]  # the hole has one outline in both


def test_a_class_of_neither_map_scores_one_and_of_one_map_zero():
    counts = np.array([[[0, 0, 0, 0], [5, 0, 0, 0], [4, 2, 3, 3]]])
    result = boundary_f(counts, ("absent", "invented", "half"))
    by_class = result["boundary_f_class"]
    assert by_class == pytest.approx({"absent": 1, "invented": 0, "half": 2 / 3})
    assert result["boundary_f"] == pytest.approx(5 / 9)


@pytest.mark.parametrize("case", range(3))
def test_equals_the_authors_code(fixtures, case):
    data = np.load(fixtures / "sfnet" / "utils.npz")
    label = data[f"bf{case}_gt"][None]
    prediction = data[f"bf{case}_pred"][None]
    for name in THRESHOLDS:
        expected = data[f"bf{case}_th{name}"][:, 0]
        radius = boundary_radius(float(name), *label.shape[1:])
        counts = boundary_counts(jnp.asarray(label), jnp.asarray(prediction), 5, radius)
        score = boundary_f(counts, "abcde")["boundary_f_class"]
        np.testing.assert_allclose(list(score.values()), expected, atol=1e-12)


def test_a_batch_is_its_images():
    draw = np.random.default_rng(0)
    label, prediction = draw.integers(0, 3, (2, 2, 9, 11)).astype(np.uint8)
    together = jax.jit(boundary_counts, static_argnums=(2, 3))(label, prediction, 3, 2)
    for i in range(2):
        alone = boundary_counts(label[i : i + 1], prediction[i : i + 1], 3, 2)
        np.testing.assert_array_equal(together[i], alone[0])

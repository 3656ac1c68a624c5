import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eseg_jax import evaluate, models, steps
from eseg_jax.report import flow


@pytest.mark.parametrize("case", [0, 1])
def test_colours_are_middleburys(fixtures, case):
    data = np.load(fixtures / "sfnet" / "utils.npz")
    painted = flow.flow_to_rgb(data[f"flow{case}"])
    np.testing.assert_array_equal(painted, data[f"flow{case}_rgb"])


def test_no_flow_is_white_and_unknown_flow_black():
    field = np.zeros((1, 3, 2), np.float32)
    field[0, 1, 0], field[0, 2, 1] = 1e9, np.nan
    assert flow.flow_to_rgb(field).tolist() == [[[255] * 3, [0] * 3, [0] * 3]]


def test_heat_goes_from_cold_to_hot_and_bears_a_constant_map():
    ramp = flow.heat(np.linspace(0, 1, 200)[None])
    assert ramp[0, 0].tolist() == list(flow._COLD_TO_HOT[0])
    assert ramp[0, -1].tolist() == list(flow._COLD_TO_HOT[-1])
    assert len(np.unique(flow.heat(np.ones((4, 4))).reshape(-1, 3), axis=0)) == 1


def test_arrows_point_from_the_source_to_the_target():
    image = np.zeros((60, 60, 3), np.uint8)
    to_the_right = np.zeros((6, 6, 2), np.float32)
    to_the_right[..., 0] = 4.0  # each point reads two of its pixels to the right
    drawn = flow.draw_arrows(image, to_the_right)
    rows, columns = np.nonzero(drawn.any(axis=-1))
    # A shaft of one target's distance to the right of each of three targets.
    shaft = columns[rows == 30]
    assert {10, 20, 30, 40, 50} <= set(shaft.tolist())
    assert columns.min() == 10
    # The head, the part that is not on the shaft, is at the target's end.
    heads = columns[rows == 32]
    assert ((heads % 20 >= 10) & (heads % 20 <= 17)).all()


def test_sheet_has_a_row_of_tiles_for_each_warp():
    image = np.full((40, 60, 3), 128, np.uint8)
    view = {
        "before": np.random.default_rng(0).normal(size=(5, 8)),
        "flow": np.random.default_rng(1).normal(size=(10, 15, 2)),
        "after": np.random.default_rng(2).normal(size=(10, 15)),
    }
    one, two = (
        flow.sheet(image, {str(i): view for i in range(n)}).shape for n in (1, 2)
    )
    assert two[0] == 2 * one[0] > 80
    assert one[1] == two[1] == 4 * (60 + 4) - 4


@pytest.mark.parametrize(
    ("fam_levels", "rows"),
    [
        (None, ["FAM of level 0", "FAM of level 1"]),
        ((0,), ["FAM of level 0"]),
        ((), []),
    ],
)
def test_sfnet_shows_its_flows(fam_levels, rows):
    model = models.create("sfnet_df1", 3, fam_levels=fam_levels)
    step = steps.make_views_step(model, mean=(0, 0, 0), std=(1, 1, 1))
    images = jnp.zeros((2, 64, 96, 3), jnp.uint8)
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
    )
    views = jax.eval_shape(step, variables, images)
    assert list(views) == rows
    if fam_levels is None:
        view = views["FAM of level 0"]
        assert view["before"].shape == (2, 2, 3)
        assert view["flow"].shape == (2, 4, 6, 2)
        assert view["after"].shape == (2, 4, 6)


def test_examples_get_their_views():
    def views_step(variables, images):
        return {"FAM": {"after": variables["params"] * images[..., 0]}}

    examples = [{"id": i, "image": np.full((2, 3, 3), i, np.uint8)} for i in (1, 2)]
    shown = evaluate.with_views(views_step, {"params": jnp.float32(10)}, examples)
    assert [x["id"] for x in shown] == [1, 2]
    for i, x in enumerate(shown, start=1):
        np.testing.assert_array_equal(
            x["views"]["FAM"]["after"], np.full((2, 3), 10 * i)
        )
    assert evaluate.with_views(None, {}, examples) is examples


def test_only_networks_with_flows_have_views(tiny_config):
    model = evaluate.create_model(tiny_config, 3)
    assert evaluate.jit_views_step(tiny_config, model) is None

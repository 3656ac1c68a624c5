import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eseg_jax.optimizer import make_optimizer, make_schedule


def config(**changes):
    fields = dict(
        name="sgd",
        learning_rate=0.5,
        schedule="constant",
        poly_power=0.9,
        final_learning_rate=0.0,
        warmup_steps=0,
        warmup_factor=0.1,
        momentum=0.0,
        nesterov=False,
        b1=0.9,
        b2=0.999,
        weight_decay=0.0,
        weight_decay_on=".*/kernel$",
        clip_norm=0.0,
        frozen="",
        multipliers=(),
    )
    return types.SimpleNamespace(**(fields | changes))


def params():
    return {
        "encoder": {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.array([1.0])},
        "head": {"kernel": jnp.array([2.0])},
    }


def gradient(encoder, bias, head):
    return {
        "encoder": {"kernel": jnp.array(encoder), "bias": jnp.array([bias])},
        "head": {"kernel": jnp.array([head])},
    }


def updates(cfg, *gradients, total_steps=10):
    """The update of each step, as [encoder kernel..., bias, head kernel]."""
    optimizer = make_optimizer(cfg, total_steps)
    current, state, rows = params(), optimizer.init(params()), []
    for grads in gradients:
        update, state = optimizer.update(grads, state, current)
        current = optax.apply_updates(current, update)
        rows.append(
            [
                *update["encoder"]["kernel"].tolist(),
                *update["encoder"]["bias"].tolist(),
                *update["head"]["kernel"].tolist(),
            ]
        )
    return np.array(rows)


ONES = gradient([1.0, 1.0], 1.0, 1.0)
ZEROS = gradient([0.0, 0.0], 0.0, 0.0)


# ---------------------------------------------------------------- schedule


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # Steps 0, 5 (half the warm-up), 10 (its end), 30 (a quarter), 50, 90, 95.
        ({"schedule": "constant"}, [0.2, 1.1, 2, 2, 2, 2, 2]),
        (
            {"schedule": "steps", "step_at": (0.5, 0.75), "step_factor": 0.1},
            [0.2, 1.1, 2, 2, 0.2, 0.02, 0.02],
        ),
        (
            {"schedule": "cosine"},
            [0.2, 1.1, 2, 1 + 0.5**0.5, 1, 0, 0],
        ),
        (
            {"schedule": "cosine", "final_learning_rate": 1.0},
            [0.2, 1.1, 2, 1.5 + 0.125**0.5, 1.5, 1, 1],
        ),
        ({"schedule": "poly", "poly_power": 2.0}, [0.2, 1.1, 2, 1.125, 0.5, 0, 0]),
    ],
)
def test_schedule_by_hand(changes, expected):
    cfg = config(learning_rate=2.0, warmup_steps=10, **changes)
    schedule = jax.jit(make_schedule(cfg, 90))
    found = [schedule(step) for step in (0, 5, 10, 30, 50, 90, 95)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_schedule_without_warmup_starts_at_the_peak():
    schedule = make_schedule(config(schedule="cosine"), 10)
    assert schedule(0) == 0.5
    assert schedule(10) == 0


# ---------------------------------------------------------------- optimizer


def test_momentum_by_hand():
    # Traces 1, then 1 + 0.5 = 1.5.
    found = updates(config(momentum=0.5), ONES, ONES)
    np.testing.assert_allclose(found, [[-0.5] * 4, [-0.75] * 4])


def test_nesterov_looks_one_step_ahead():
    # 1 + 0.5 * trace: 1.5, then 1.75.
    found = updates(config(momentum=0.5, nesterov=True), ONES, ONES)
    np.testing.assert_allclose(found, [[-0.75] * 4, [-0.875] * 4])


def test_adam_starts_with_the_sign():
    found = updates(config(name="adam"), gradient([2.0, -3.0], 0.1, -5.0))
    np.testing.assert_allclose(found, [[-0.5, 0.5, -0.5, 0.5]], rtol=1e-5)


def test_weight_decay_on_kernels_only():
    found = updates(config(weight_decay=0.1), ZEROS)
    np.testing.assert_allclose(found, [[-0.15, -0.2, 0, -0.1]], rtol=1e-6)


def test_patterns_match_whole_names():
    cfg = config(weight_decay=0.1, weight_decay_on="encoder/kernel|head")
    np.testing.assert_allclose(updates(cfg, ZEROS), [[-0.15, -0.2, 0, 0]], rtol=1e-6)


def test_weight_decay_is_clipped_with_the_gradient():
    # Gradient plus decay is (3, 4, 0, 0): norm 5 is cut to 1.
    cfg = config(weight_decay=1.0, weight_decay_on="encoder/kernel", clip_norm=1.0)
    np.testing.assert_allclose(updates(cfg, ZEROS), [[-0.3, -0.4, 0, 0]], rtol=1e-6)


def test_weight_decay_is_accumulated_by_the_momentum():
    cfg = config(weight_decay=0.1, momentum=0.5, learning_rate=1.0)
    bias_and_head = updates(cfg, ZEROS, ZEROS)[:, 2:]
    # Head: 0.2, then 0.1 * 1.8 + 0.5 * 0.2.
    np.testing.assert_allclose(bias_and_head, [[0, -0.2], [0, -0.28]], rtol=1e-6)


def test_small_gradient_is_not_clipped():
    found = updates(config(clip_norm=10.0), ONES)
    np.testing.assert_allclose(found, [[-0.5] * 4])


def test_learning_rate_follows_the_schedule():
    cfg = config(schedule="poly", poly_power=1.0)
    found = updates(cfg, ONES, ONES, total_steps=2)
    np.testing.assert_allclose(found, [[-0.5] * 4, [-0.25] * 4])


def test_first_matching_multiplier_scales_the_update():
    cfg = config(multipliers=(("encoder/bias", 0.0), ("encoder/.*", 0.1)))
    np.testing.assert_allclose(updates(cfg, ONES), [[-0.05, -0.05, 0, -0.5]])


def test_frozen_parameters_stay_out_of_everything():
    # With the encoder's gradient the norm would be 5; the head's alone is 1.
    cfg = config(frozen="encoder/.*", clip_norm=1.0, weight_decay=0.5, momentum=0.9)
    found = updates(cfg, gradient([3.0, 4.0], 0.0, 0.0))
    np.testing.assert_allclose(found, [[0, 0, 0, -0.5]])
    state = make_optimizer(cfg, 10).init(params())
    # The head's momentum and the step count.
    assert [leaf.size for leaf in jax.tree.leaves(state)] == [1, 1]


def test_momentum_is_float32_for_bfloat16_parameters():
    halves = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params())
    state = make_optimizer(config(momentum=0.9), 10).init(halves)
    assert [str(x.dtype) for x in jax.tree.leaves(state)] == 3 * ["float32"] + ["int32"]


def test_no_leaf_of_the_state_is_a_parameter():
    cfg = config(momentum=0.9, weight_decay=0.1, clip_norm=1.0)
    tree = params()
    state = make_optimizer(cfg, 10).init(tree)
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((tree, state))]
    assert len(set(buffers)) == len(buffers)


def test_update_under_jit_with_donation():
    cfg = config(momentum=0.9, weight_decay=0.1, frozen="head/.*")
    optimizer = make_optimizer(cfg, 10)

    def step(current, state):
        update, state = optimizer.update(ONES, state, current)
        return optax.apply_updates(current, update), state

    tree, state = params(), optimizer.init(params())
    tree, state = jax.jit(step, donate_argnums=(0, 1))(tree, state)
    np.testing.assert_allclose(tree["encoder"]["kernel"], [2.35, 3.3], rtol=1e-6)
    assert tree["head"]["kernel"].tolist() == [2.0]


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"weight_decay": 0.1, "weight_decay_on": "kernel"}, "weight_decay_on"),
        ({"frozen": "decoder/.*"}, "frozen"),
        ({"multipliers": ((".*", 1.0), ("decoder/.*", 0.1))}, r"multipliers\[1\]"),
    ],
)
def test_pattern_that_matches_nothing_is_named(changes, field):
    optimizer = make_optimizer(config(**changes), 10)
    with pytest.raises(ValueError, match=rf"optimizer\.{field}: .*'encoder/bias'"):
        optimizer.init(params())


def test_broken_pattern_is_named():
    optimizer = make_optimizer(config(frozen="encoder/("), 10)
    with pytest.raises(ValueError, match=r"frozen: 'encoder/\(' is not a regular exp"):
        optimizer.init(params())


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"name is 'lion'.*\['adam', 'sgd'\]"):
        make_optimizer(config(name="lion"), 10)
    with pytest.raises(ValueError, match=r"schedule is 'step'.*'cosine'"):
        make_schedule(config(schedule="step"), 10)

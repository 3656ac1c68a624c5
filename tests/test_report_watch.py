"""A run that stops being finite, or stops moving, says where."""

import threading

import jax.numpy as jnp
import pytest

from eseg_jax.report.finite import FiniteGuard, NonFiniteError
from eseg_jax.report.watchdog import Watchdog


def _scalars(loss, nonfinite=True, **parts):
    values = {"loss": loss, **parts, "nonfinite": nonfinite}
    return {name: jnp.float32(value) for name, value in values.items()}


def test_non_finite_loss_names_step_parts_and_images():
    guard = FiniteGuard(0, 0)
    guard.check()  # nothing yet
    guard.follow(6, _scalars(0.5, nonfinite=False), ["ok"])
    guard.check()
    guard.follow(7, _scalars(float("nan"), head=2.0, grad_norm=0.25), ["a", "b"])
    with pytest.raises(NonFiniteError) as error:
        guard.check()
    assert str(error.value).startswith(
        "the loss is not finite at step 7 (loss=nan, head=2, grad_norm=0.25); its "
        "images: a, b. Look at"
    )


def test_non_finite_gradient_of_a_finite_loss():
    guard = FiniteGuard(0, 0)
    guard.follow(7, _scalars(1.0, grad_norm=float("inf")), ["a"])
    with pytest.raises(NonFiniteError, match="the gradient is not finite at step 7"):
        guard.check()


def test_some_updates_may_be_skipped():
    guard = FiniteGuard(2, 1)  # one was skipped before the run was resumed
    guard.follow(3, _scalars(float("inf")), ["a"])
    guard.check()
    guard.check()  # counts once
    assert guard.skipped == 2
    guard.follow(4, _scalars(float("inf")), ["b"])
    with pytest.raises(NonFiniteError, match="at step 4.*2 updates were skipped befor"):
        guard.check()


@pytest.mark.parametrize(
    "stage, words",
    [
        ("input", "no batch for 0 s: waiting for the input of step 5, which reads D"),
        ("step", "no step for 0 s: waiting for the devices at step 5"),
        ("checkpoint", "waiting to write that of step 5; is the workdir"),
        ("evaluation", "evaluating step 5"),
        ("compile", "compiling for"),
        ("other", "waiting to write the report"),
    ],
)
def test_watchdog_names_the_stage(stage, words):
    heard = threading.Event()

    def say(_, sentence):
        if words in sentence:
            heard.set()

    watchdog = Watchdog(0.02, "D", say)
    watchdog.step = 5
    with watchdog.stage(stage):
        assert heard.wait(60)
    watchdog.close()


def test_watchdog_is_quiet_while_stages_change():
    heard = []
    watchdog = Watchdog(30.0, "D", lambda *args: heard.append(args))
    with watchdog.stage("input"), watchdog.stage("checkpoint"):
        assert watchdog._stage == "checkpoint"
    assert watchdog._stage == "other"
    watchdog.close()
    assert not heard

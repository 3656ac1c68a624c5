"""Stops a run, or skips an update, where loss or gradient is no longer finite."""

import math


class NonFiniteError(FloatingPointError):
    """The loss or the gradient became NaN or infinite."""


class FiniteGuard:
    """Follows the scalars of every step without holding up the device.

    The scalars of a step are looked at when the next one has been started, and before
    anything is evaluated or saved. All processes see the same scalars, so that all stop
    at the same step.

    Attributes:
      skipped: updates skipped so far; the step itself leaves the state unchanged.
    """

    def __init__(self, allowed: int, skipped: int):
        """`allowed` updates may be skipped in the whole run; 0 stops at the first."""
        self._allowed, self.skipped = allowed, skipped
        self._last = None

    def follow(self, step: int, scalars: dict, ids: list[str]) -> None:
        """Remembers the scalars of the step just started and its images' names."""
        self._last = (step, scalars, ids)

    def check(self) -> None:
        """Waits for the step followed last.

        Raises:
          NonFiniteError: more updates than allowed had to be skipped; names the step,
            the parts of the loss and the images of this process.
        """
        if self._last is None:
            return
        (step, scalars, ids), self._last = self._last, None
        if not float(scalars["nonfinite"]):
            return
        self.skipped += 1
        if self.skipped <= self._allowed:
            return
        values = {k: float(v) for k, v in scalars.items()}
        what = "gradient" if math.isfinite(values["loss"]) else "loss"
        parts = ", ".join(f"{k}={v:.6g}" for k, v in values.items() if k != "nonfinite")
        before = (
            f"; {self._allowed} updates were skipped before, as config.skip_nonfinite "
            "allows"
            if self._allowed
            else ""
        )
        raise NonFiniteError(
            f"the {what} is not finite at step {step} ({parts}); its images: "
            f"{', '.join(ids)}{before}. Look at those images and labels, lower "
            "config.optimizer.learning_rate, set config.optimizer.clip_norm, or let a "
            "few updates be skipped with config.skip_nonfinite; the same command "
            "resumes from the last checkpoint."
        )

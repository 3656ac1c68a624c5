"""What can be wrong on the user's side."""

import contextlib
from collections.abc import Iterator


class ExportError(ValueError):
    """What the user must change before a network can be exported or run."""


@contextlib.contextmanager
def needed(package: str) -> Iterator[None]:
    """Around an import: when it fails, an ExportError says what to install."""
    try:
        yield
    except ImportError as error:
        raise ExportError(
            f"{package} is not installed; pip install 'eseg_jax[export]' brings it."
        ) from error

"""What can be wrong on the user's side."""

import importlib


class ExportError(ValueError):
    """What the user must change before a network can be exported or run."""


def needed(module: str):
    """The module, or an ExportError that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ExportError(
            f"{module.split('.')[0]} is not installed; "
            "pip install 'eseg_jax[export]' brings it."
        ) from error

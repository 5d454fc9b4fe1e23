"""What has to be right in the Python environment before transformers is imported."""

import importlib
import importlib.util

from crossgraft.errors import CrossgraftError


def check_environment() -> None:
    """Explain a torchvision that does not fit torch, which would break every import of transformers.

    Raises:
        CrossgraftError: torchvision is installed but cannot be imported.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # a mismatched binary raises RuntimeError, OSError, ImportError, AttributeError, ...
        raise CrossgraftError(
            f"torchvision is installed but does not fit this torch ({type(error).__name__}: {error}). transformers "
            "imports it and would fail. crossgraft does not need it: remove it with `pip uninstall torchvision`, or "
            "install the build that matches your torch."
        ) from error


def quiet_transformers() -> None:
    """Keep transformers' weight-loading bars and reports off a user's terminal; errors still show."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()

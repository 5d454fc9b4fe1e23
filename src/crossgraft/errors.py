"""Errors that a user sees. Their messages name the file or key, what was expected, and what to do."""


class CrossgraftError(Exception):
    """A run failed (command-line exit code 1)."""

    exit_code = 1


class InputError(CrossgraftError, ValueError):
    """Bad usage or bad input (command-line exit code 2)."""

    exit_code = 2


def first_line(error: Exception) -> str:
    """What another library's exception says, in one line; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]

"""Errors a user can act on, and the import of optional packages."""

import importlib
import warnings
from types import ModuleType


class PretaskError(Exception):
    """Something went wrong that the user can mend; the message says what, where and how."""


class UsageError(PretaskError):
    """The command or the call was wrong: nothing was started."""


class DataError(PretaskError):
    """The data cannot be used as they are."""


def need(module: str, extra: str) -> ModuleType:
    """Import an optional package, or say which extra installs it.

    Raises:
        PretaskError: the package is not installed.
    """
    try:
        with warnings.catch_warnings():  # what packages say of each other when imported is not for the user
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError as error:
        raise PretaskError(
            f"this needs the package '{module}', which is not installed: pip install 'pretask[{extra}]'"
        ) from error

"""Errors a user can cause, each with the exit code the command line ends with.

Every message says three things: what was given, what is allowed, and what to do next.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable

EXIT_DONE = 0
EXIT_CONFIG = 2
EXIT_DATA = 3
EXIT_NON_FINITE = 4
EXIT_STOPPED = 5


class FairleadError(Exception):
    """Base of every error Fairlead raises on purpose; shown without a traceback."""

    exit_code = 1


class ConfigError(FairleadError):
    """The command line or the configuration asks for something that cannot be."""

    exit_code = EXIT_CONFIG


class PluginError(ConfigError):
    """A plugin is missing, broken, or clashes with another one."""


class DataError(FairleadError):
    """A data file or a record in it cannot be used; names the file and the line."""

    exit_code = EXIT_DATA


class RewardError(DataError):
    """A reward returned something that is not one finite number per response."""


class NonFiniteError(FairleadError):
    """A loss became NaN or infinite; the weights were not updated with it."""

    exit_code = EXIT_NON_FINITE


class LogprobError(FairleadError):
    """Log-probs of a rollout are not those of the policy that is to be trained on it."""

    exit_code = EXIT_NON_FINITE


class Stopped(FairleadError):
    """A signal asked for a stop and a checkpoint has been written."""

    exit_code = EXIT_STOPPED


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest allowed name, or an empty string."""
    close = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def brief(error: BaseException) -> str:
    """Return the first line of an error's text, cut where it is long: a trace has pages."""
    lines = str(error).strip().splitlines()
    return textwrap.shorten(lines[0], 160, placeholder=" ...") if lines else type(error).__name__


def listing(names: Iterable[str]) -> str:
    """Return names sorted and comma-separated, or ``none``."""
    return ", ".join(sorted(names)) or "none"

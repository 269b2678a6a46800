"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from fairlead.errors import FairleadError

INTERRUPTED = 130
"""128 + SIGINT, as a shell reports it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    An error somebody can do something about is one message on stderr; FAIRLEAD_DEBUG=1 shows
    where it came from.

    Args:
        argv: The arguments; default those of the process.
    """
    from fairlead.cli.app import fairlead

    try:
        outcome = fairlead.main(
            args=None if argv is None else list(argv), prog_name="fairlead", standalone_mode=False
        )
    except click.exceptions.Abort:
        # click turns Ctrl-C into this.
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except FairleadError as error:
        return _failed(error, error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has left, `| head` say; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _failed(error, 1)
    return outcome if isinstance(outcome, int) else 0


def _failed(error: Exception, code: int) -> int:
    if os.environ.get("FAIRLEAD_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(error)
    click.echo(f"error: {error}", err=True)
    return code


__all__ = ["main"]

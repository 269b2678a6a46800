"""``fairlead report``: one page that shows what a run did."""

from __future__ import annotations

from pathlib import Path

import click

from fairlead.cli.options import examples


@click.command(
    epilog=examples(
        "fairlead report runs/first",
    )
)
@click.argument("run", metavar="RUN")
@click.option("--out", metavar="FILE", help="The page to write.  [default: RUN/report.html]")
def report(run: str, out: str | None) -> None:
    """Write a run's report, and print its path.

    RUN is the run's directory. The page needs nothing but a browser. The run may still be
    going on, or have failed.
    """
    from fairlead.report import write_report

    click.echo(str(write_report(Path(run), None if out is None else Path(out))))

"""``fairlead kernels``: which implementation of each operation would run here, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import click

from fairlead.cli.options import PluginChoice, examples, plugin_options, warn_broken


@click.group(
    epilog=examples(
        "fairlead kernels list",
        "fairlead kernels list --plugin ./my_kernel.py",
    )
)
def kernels() -> None:
    """See the operations that have kernels, and what runs them here."""


@kernels.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@plugin_options()
@click.pass_context
def list_(
    ctx: click.Context, as_json: bool, plugin: Sequence[str], no_plugin: Sequence[str]
) -> None:
    """List each operation's implementations, best first, per device.

    The one that impl="auto" takes on ordinary inputs is marked; one that cannot run here is listed
    with the reason. `fairlead bench kernels` measures them.
    """
    from fairlead.cli.output import print_json
    from fairlead.kernels import install_kernels
    from fairlead.ui import Display
    from fairlead_kernels import list_implementations

    plugins = PluginChoice.of(ctx, plugin, no_plugin).load()
    warn_broken(plugins)
    install_kernels(plugins)
    rows = list_implementations()
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    Display().table(
        "",
        ("operation", "implementation", "from", "device", "here"),
        [
            (
                row.op,
                row.impl,
                row.owner,
                row.device,
                "auto" if row.auto else "yes" if row.available else f"no: {row.reason}",
            )
            for row in rows
        ],
    )

"""``fairlead env``: what Fairlead runs with here; the first thing to put into a bug report."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Sequence
from typing import Any

import click

from fairlead.cli.options import PluginChoice, plugin_options

EXTRAS = {"data": "datasets", "tensorboard": "tensorboard", "xformers": "xformers"}
"""Optional extras, and the module that shows one is installed."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@plugin_options()
@click.pass_context
def env(ctx: click.Context, as_json: bool, plugin: Sequence[str], no_plugin: Sequence[str]) -> None:
    """Show versions, the device, native kernels, plugins and extras."""
    from fairlead.cli.output import print_json
    from fairlead.ui import Display

    found = gather(PluginChoice.of(ctx, plugin, no_plugin))
    if as_json:
        print_json(found)
        return
    rows: list[tuple[str, str]] = []
    for key, value in found.items():
        if isinstance(value, dict):
            rows += [(f"{key}: {name}", _words(item)) for name, item in value.items()]
        else:
            rows.append((key, _words(value)))
    Display().table("", ("what", "value"), rows)


def gather(choice: PluginChoice) -> dict[str, Any]:
    """Return what the command shows, as plain data."""
    import torch

    from fairlead.runner import versions
    from fairlead_kernels import native_status

    plugins = choice.load()
    status = native_status()
    gpu = torch.cuda.is_available()
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "device": "cuda" if gpu else "cpu",
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "native kernels": {
            "available": status.available,
            "parts": list(status.parts),
            "compiler": status.compiler,
            "instruction set": status.instruction_set,
            "cuda architectures": status.cuda_architectures,
            "missing": status.reason,
        },
        "plugins": len(plugins.infos) - len(plugins.broken),
        "broken plugins": {info.name: f"{info}: {info.error}" for info in plugins.broken},
        "extras": {
            extra: importlib.util.find_spec(module) is not None for extra, module in EXTRAS.items()
        },
    }


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value) if value != "" else "-"

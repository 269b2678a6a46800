"""``fairlead config``: what a configuration comes to, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

import click

from fairlead.cli.options import PluginChoice, Request, config_options, examples


@click.group(
    epilog=examples(
        "fairlead config show --recipe hh data.path=a.jsonl data.pretrain=b.txt",
        "fairlead config validate --config my.yaml",
    )
)
def config() -> None:
    """Show or check a configuration without running it."""


@config.command()
@config_options
@click.pass_context
def show(
    ctx: click.Context,
    recipe: str | None,
    config: str | None,
    plugin: Sequence[str],
    no_plugin: Sequence[str],
    overrides: Sequence[str],
) -> None:
    """Print the whole configuration as YAML, with every default filled in.

    What it prints is a configuration of its own: save it, and give it with --config.
    """
    import yaml

    choice = PluginChoice.of(ctx, plugin, no_plugin)
    resolved, _ = Request(recipe, config, tuple(overrides), choice).resolve()
    data = resolved.model_dump(mode="json")
    click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=False)


@config.command()
@config_options
@click.pass_context
def validate(
    ctx: click.Context,
    recipe: str | None,
    config: str | None,
    plugin: Sequence[str],
    no_plugin: Sequence[str],
    overrides: Sequence[str],
) -> None:
    """Check a configuration, and list every fault of it.

    Exits with 0 when it is valid and with 2 when it is not.
    Only the configuration is checked; --dry-run of a training command looks at the data and
    the models as well.
    """
    choice = PluginChoice.of(ctx, plugin, no_plugin)
    resolved, _ = Request(recipe, config, tuple(overrides), choice).resolve()
    stages = ", ".join(f"{name} ({spec.name})" for name, spec in resolved.stages.items())
    click.echo(f"valid: {stages}")

"""Registers the miniworld's data sources, its recipe and ``fairlead demo``."""

from pathlib import Path

from fairlead import hookimpl
from fairlead.registry import Register


@hookimpl
def register_data_sources(register: Register) -> None:
    """Register the four sources of the tiny world."""
    register("miniworld_text", "fairlead_plugins.miniworld.sources:TextSource")
    register("miniworld_demonstrations", "fairlead_plugins.miniworld.sources:DemonstrationSource")
    register("miniworld_comparisons", "fairlead_plugins.miniworld.sources:ComparisonSource")
    register("miniworld_prompts", "fairlead_plugins.miniworld.sources:PromptSource")


def register_hookspecs() -> object:
    """Declare ``register_labelers``."""
    from fairlead_plugins.miniworld import hookspecs

    return hookspecs


@hookimpl
def register_labelers(register: Register) -> None:
    """Register ``noisy``."""
    register("noisy", "fairlead_plugins.miniworld.labelers:NoisyLabeler")


@hookimpl
def register_stages(register: Register) -> None:
    """Register the stage that has answers ranked, and the one that judges the claims."""
    register("miniworld_label", "fairlead_plugins.miniworld.label:LabelStage")
    register("miniworld_claims", "fairlead_plugins.miniworld.report:ClaimsStage")


@hookimpl
def register_recipes(register: Register) -> None:
    """Register every recipe of this plugin."""
    for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml")):
        register(path.stem, str(path))


@hookimpl
def register_commands(register: Register) -> None:
    """Register ``fairlead demo``."""
    register("demo", "fairlead_plugins.miniworld.demo:demo")

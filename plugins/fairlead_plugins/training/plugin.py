"""Registers the default optimizers and the recipes that come with the engine."""

from pathlib import Path

import fairlead
from fairlead import hookimpl
from fairlead.registry import Register


@hookimpl
def register_optimizers(register: Register) -> None:
    """Register ``adamw`` and ``muon``."""
    register("adamw", "fairlead_plugins.training.adamw:AdamW")
    register("muon", "fairlead_plugins.training.muon:Muon")


@hookimpl
def register_recipes(register: Register) -> None:
    """Register every recipe of ``fairlead/recipes``."""
    for path in sorted((Path(fairlead.__file__).parent / "recipes").glob("*.yaml")):
        register(path.stem, str(path))

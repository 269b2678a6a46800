"""Registers the data sources. Factories are names, imported on use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fairlead import hookimpl

if TYPE_CHECKING:
    from fairlead.registry import Register


@hookimpl
def register_data_sources(register: Register) -> None:
    """Register the data sources that come with Fairlead."""
    register("jsonl", "fairlead_plugins.sources.jsonl:JsonlSource")
    register("hh", "fairlead_plugins.sources.hh:HhSource")
    register("text", "fairlead_plugins.sources.text:TextSource")
    register("tasks", "fairlead_plugins.sources.tasks:TasksSource")
    register("datasets", "fairlead_plugins.sources.huggingface:DatasetsSource")
    register("inline", "fairlead_plugins.sources.inline:InlineSource")
    register("mixture", "fairlead_plugins.sources.mixture:MixtureSource")

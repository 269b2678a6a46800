"""A registry with the data sources, filled as the engine fills it."""

import pytest

from fairlead.plugins import PluginInfo, Plugins
from fairlead_plugins.sources import plugin


@pytest.fixture
def registry():
    plugins = Plugins()
    plugins.add(PluginInfo("sources", plugin.__name__), plugin)
    plugins.check_hooks()
    return plugins.registry

"""Fairlead: a plugin-based RLHF engine that implements InstructGPT exactly.

This package is the core; it holds no algorithm. The names below are what a plugin's
registration module needs, and importing them does not import torch.
"""

from fairlead.errors import ConfigError, DataError, FairleadError, PluginError
from fairlead.hookspecs import hookimpl, hookspec
from fairlead.version import __version__

__all__ = [
    "ConfigError",
    "DataError",
    "FairleadError",
    "PluginError",
    "__version__",
    "hookimpl",
    "hookspec",
]

"""Registers the pretraining stage and the pretraining mix."""

from fairlead import hookimpl
from fairlead.registry import Register


@hookimpl
def register_stages(register: Register) -> None:
    """Register ``pretrain``."""
    register("pretrain", "fairlead_plugins.pretrain.stage:PretrainStage")


@hookimpl
def register_losses(register: Register) -> None:
    """Register the auxiliary loss ``ptx``."""
    register("auxiliary/ptx", "fairlead_plugins.pretrain.losses:PretrainingLoss")

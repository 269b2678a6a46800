"""Every hook a plugin can implement.

Two kinds, told apart by name. ``register_*`` hooks run once at start-up: a plugin calls
``register(name, factory)`` for each component it brings, where ``factory`` is a class or
the string ``"package.module:Class"``, imported only when a run uses it. The other hooks
are called at stage and step boundaries; they observe, and only `shape_rewards` returns
something that changes the run.

`docs/hooks.md` shows a working example of each; a test fails when one is missing there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from fairlead.registry import Register
    from fairlead.rollout import Rollout
    from fairlead.stages import StageContext

PROJECT = "fairlead"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


# --- start-up: what a plugin brings ---------------------------------------------------


@hookspec
def register_stages(register: Register) -> None:
    """Register pipeline stages (`fairlead.stages.Stage`): a whole training loop each."""


@hookspec
def register_data_sources(register: Register) -> None:
    """Register data sources (`fairlead.components.DataSource`): where records come from."""


@hookspec
def register_reward_models(register: Register) -> None:
    """Register rewards (`fairlead.components.Reward`): what scores a response."""


@hookspec
def register_algorithms(register: Register) -> None:
    """Register RL algorithms (`fairlead.components.Algorithm`): how credit is assigned."""


@hookspec
def register_losses(register: Register) -> None:
    """Register losses, each as ``ROLE/NAME``.

    The role is ``policy``, ``value``, ``preference`` or ``auxiliary``: the four loss
    protocols in `fairlead.components`.
    """


@hookspec
def register_rollout_backends(register: Register) -> None:
    """Register rollout backends (`fairlead.generation.RolloutBackend`): who generates."""


@hookspec
def register_kernels(register: Register) -> None:
    """Register kernel implementations, each as ``OP/NAME``.

    The factory is called without arguments when a run begins, and returns a
    `fairlead.kernels.Kernel`.
    """


@hookspec
def register_optimizers(register: Register) -> None:
    """Register optimizers (`fairlead.components.OptimizerFactory`)."""


@hookspec
def register_evaluators(register: Register) -> None:
    """Register evaluators (`fairlead.components.Evaluator`): run every so many steps."""


@hookspec
def register_loggers(register: Register) -> None:
    """Register loggers (`fairlead.components.Logger`).

    They are where metrics go besides the console, JSONL and CSV, which every run writes.
    """


@hookspec
def register_recipes(register: Register) -> None:
    """Register recipes: ``register(name, path)`` with the path of a YAML file."""


@hookspec
def register_commands(register: Register) -> None:
    """Register click commands: ``register(name, command)`` or ``"module:command"``."""


# --- while a run goes on ----------------------------------------------------------------


@hookspec
def stage_started(context: StageContext) -> None:
    """A stage begins or is taken up again; models are not loaded yet."""


@hookspec
def shape_rewards(rollout: Rollout, context: StageContext) -> Rollout | None:
    """Change the scores of a rollout, at the end of its collection.

    Return a rollout with other ``scores`` or ``token_scores`` (`Rollout.replace`), or None
    to leave it. Implementations chain in the order their plugins were loaded, each given
    what the one before returned.
    """


@hookspec
def rollout_collected(rollout: Rollout, context: StageContext) -> None:
    """A rollout is complete: generated, scored, and with log-probs of both models."""


@hookspec
def step_finished(step: int, metrics: dict[str, float], context: StageContext) -> None:
    """One optimizer step (SFT, RM) or one rollout iteration (RL) is done; 1-based."""


@hookspec
def checkpoint_saved(path: Path, step: int, context: StageContext) -> None:
    """A checkpoint is complete on disk at ``path``."""


@hookspec
def stage_finished(summary: dict[str, Any], context: StageContext) -> None:
    """A stage is done and its output directory can be loaded."""


@hookspec
def stage_failed(error: BaseException, context: StageContext) -> None:
    """A stage ends early: an error, or a stop by signal (`fairlead.errors.Stopped`)."""


__all__ = ["PROJECT", "hookimpl", "hookspec"]

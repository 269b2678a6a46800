"""A plugin for tests of the command line: stages that need no data and train nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from fairlead import hookimpl
from fairlead.config import Config
from fairlead.errors import ConfigError, DataError, NonFiniteError, Stopped
from fairlead.stages import Preview, StageContext

ERRORS = {
    "config": ConfigError("a fault of the configuration"),
    "data": DataError("a fault of the data"),
    "nan": NonFiniteError("the loss is not finite"),
    "stop": Stopped("stopped by SIGTERM"),
    "interrupt": KeyboardInterrupt(),
    "disk": OSError(28, "No space left on device"),
}


class ToyConfig(Config):
    """Settings of the toy stage."""

    model: str = "nowhere"
    steps: int = 1
    fail: Literal["", "config", "data", "nan", "stop", "interrupt", "disk"] = ""


class ToyStage:
    """Finishes at once, or fails as it is told to."""

    Config = ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        self.config = config

    def run(self, context: StageContext) -> dict[str, Any]:
        context.display.note(f"{context.name} works")
        if self.config.fail:
            raise ERRORS[self.config.fail]
        (context.directory / "config.json").write_text("{}")
        return {"steps": self.config.steps, "loss": 0.25}

    def preview(self, context: StageContext) -> Preview:
        return Preview(
            facts={"steps": self.config.steps, "records": 12345},
            sample=[("why? ", False), ("because", True), ("", True), (" and so", False)],
            memory_gib={"model": 1.5, "together": 1.5},
        )


@click.command(help="Say hello.")
def hello() -> None:
    click.echo("hello from a plugin")


@hookimpl
def register_stages(register: Any) -> None:
    register("sft", ToyStage)
    register("rm", ToyStage)


@hookimpl
def register_recipes(register: Any) -> None:
    register("toy", str(Path(__file__).with_name("toy.yaml")))


@hookimpl
def register_commands(register: Any) -> None:
    register("hello", hello)

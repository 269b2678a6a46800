"""Help: quick, complete, and importing nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest

from fairlead.cli.app import CORE
from fairlead.cli.app import fairlead as root

HEAVY = ("torch", "transformers", "pydantic", "rich", "yaml", "numpy", "triton")
Run = Callable[..., Any]


def modules_after(*arguments: str) -> list[str]:
    """Return what is imported once a command has run in a process of its own."""
    program = (
        "import json, sys; from fairlead.cli import main; code = main(sys.argv[1:]);"
        "print('\\n' + json.dumps([code, *sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    code, *modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    return modules


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    names = CORE if group is root else group.list_commands(context)
    for name in names:
        command = group.get_command(context, name)
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def test_listing_the_commands_imports_nothing_heavy() -> None:
    assert [name for name in HEAVY if name in modules_after("--help")] == []


@pytest.mark.parametrize("command", CORE)
def test_the_help_of_a_core_command_loads_no_plugin(command: str) -> None:
    modules = modules_after(command, "--help")
    assert [name for name in HEAVY if name in modules] == []
    assert [name for name in modules if name.startswith("fairlead_plugins")] == []
    assert "fairlead.plugins" not in modules


@pytest.mark.parametrize("command", list(commands(root)), ids=" ".join)
def test_every_command_explains_itself(fairlead: Run, command: tuple[str, ...]) -> None:
    shown = fairlead(*command, "--help")
    assert shown.code == 0
    assert shown.err == ""
    lines = shown.out.splitlines()
    assert lines[0].startswith(f"Usage: fairlead {' '.join(command)}")
    assert lines[2].strip().endswith(".")


def test_training_commands_give_examples(fairlead: Run) -> None:
    for command in ("pipeline", "pretrain", "sft", "rm", "ppo"):
        assert f"    fairlead {command} --recipe hh" in fairlead(command, "--help").out


def test_the_list_holds_the_plugins_commands(fairlead: Run, toy: Run) -> None:
    listed = toy("--help").out
    assert "Commands of plugins:" in listed
    assert "hello  Say hello." in listed
    for name in CORE:
        assert f"\n  {name} " in listed
    assert toy("hello").out == "hello from a plugin\n"


def test_a_command_that_cannot_be_imported_does_not_hide_the_others(
    fairlead: Run, plugin_file: Callable[[str, str], str], no_installed_plugins: None
) -> None:
    path = plugin_file(
        "half",
        """
        from fairlead import hookimpl

        @hookimpl
        def register_commands(register):
            register("lost", "no_such_module:command")
            register("odd", object())
        """,
    )
    shown = fairlead("--plugin", path, "--help")
    assert shown.code == 0
    assert "lost" in shown.out
    assert "pipeline" in shown.out
    assert "is no click command" in fairlead("--plugin", path, "odd").err


def test_plugins_that_clash_do_not_take_the_help_away(
    fairlead: Run, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("twin", "", distribution="dist-one")
    install("twin", "", distribution="dist-two")
    monkeypatch.setenv("FAIRLEAD_PLUGINS", "twin")
    shown = fairlead("--help")
    assert shown.code == 0
    assert "pipeline" in shown.out
    assert "warning: two plugins are named 'twin'" in shown.err
    assert fairlead("plugins", "list").code == 2


def test_a_misspelt_command_suggests_the_right_one(fairlead: Run, toy: Run) -> None:
    shown = toy("pipelin")
    assert shown.code == 2
    assert "there is no command 'pipelin' (did you mean 'pipeline'?)" in shown.err


def test_the_version_is_shown(fairlead: Run) -> None:
    assert fairlead("--version").out.startswith("fairlead ")

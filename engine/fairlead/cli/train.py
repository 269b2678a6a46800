"""The commands that train: the whole pipeline, or one stage of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fairlead.cli.options import CONFIG_FILE, PluginChoice, Request, config_options, examples
from fairlead.errors import ConfigError, listing

if TYPE_CHECKING:
    from fairlead.config import RunConfig
    from fairlead.plugins import Plugins
    from fairlead.ui import Display


@dataclass(frozen=True)
class RunOptions:
    """What a training command was given besides its configuration."""

    out: str | None
    stage: str | None
    resume: bool
    dry_run: bool
    quiet: bool


ABOUT = {
    "pipeline": """Run all stages of a configuration, then write a report.

    The stages run one after the other into the same directory, each building on those
    before it. If one fails, what was done is kept and the report is written all the same.""",
    "pretrain": """Train a language model on plain text.

    The stage makes a model from nothing, or goes on with one that exists.""",
    "sft": """Fine-tune a model on demonstrations.

    A demonstration is a prompt together with the answer you want. Where the configuration has
    several such stages, --stage NAME chooses one.""",
    "rm": """Train a reward model on choices between answers.

    What people preferred teaches it to score an answer.""",
    "ppo": """Train a policy against a reward, by reinforcement learning.

    The stages it builds on (`stage:NAME` in the configuration) must be finished in the same
    --out, or be given as model directories.""",
}
OVERRIDE_EXAMPLE = {"pretrain": "pretrain.steps=200", "pipeline": "seed=1"}


def run_options(function: Any) -> Any:
    """Add what every training command takes: a configuration, and how to run it."""
    for option in (
        click.option("--quiet", is_flag=True, help="Show warnings and errors only."),
        click.option(
            "--dry-run",
            is_flag=True,
            help="Train nothing and write nothing: read the data, show what would be trained on, "
            "and estimate the memory.",
        ),
        click.option(
            "--resume",
            is_flag=True,
            help="Go on with the run in --out; its own configuration is taken if none is given.",
        ),
        click.option(
            "--out", metavar="DIR", help="Where to write everything.  [default: runs/NAME]"
        ),
    ):
        function = option(function)
    return config_options(function)


def _command(name: str) -> click.Command:
    """Make the command of one kind of stage, or the pipeline's."""

    @click.pass_context
    def run(
        ctx: click.Context,
        /,
        recipe: str | None,
        config: str | None,
        plugin: Sequence[str],
        no_plugin: Sequence[str],
        overrides: Sequence[str],
        stage: str | None = None,
        **options: Any,
    ) -> None:
        choice = PluginChoice.of(ctx, plugin, no_plugin)
        request = Request(recipe, config, tuple(overrides), choice)
        train(None if name == "pipeline" else name, request, RunOptions(stage=stage, **options))

    decorated = run_options(run)
    if name != "pipeline":
        decorated = click.option(
            "--stage", metavar="NAME", help="Which stage, where several are of this kind."
        )(decorated)
    override = OVERRIDE_EXAMPLE.get(name, f"{name}.lr.peak=1e-5")
    return click.command(
        name,
        help=f"{ABOUT[name]}\n\n    KEY=VALUE replaces one value of the configuration.",
        epilog=examples(
            f"fairlead {name} --recipe hh data.path=... data.pretrain=... --out runs/first",
            f"fairlead {name} --config my.yaml {override} --dry-run",
            f"fairlead {name} --resume --out runs/first",
        ),
    )(decorated)


pipeline = _command("pipeline")
pretrain = _command("pretrain")
sft = _command("sft")
rm = _command("rm")
ppo = _command("ppo")


def train(component: str | None, request: Request, options: RunOptions) -> None:
    """Run, or with ``--dry-run`` preview, the stages that were asked for.

    Args:
        component: The kind of stage to run; None for all stages.
        request: Names the configuration.
        options: The remaining options.
    """
    check_out(options)
    config, plugins = with_own_config(request, options).resolve()
    only = None if component is None else [choose_stage(config, component, options.stage)]
    out = Path(options.out) if options.out is not None else Path("runs") / config.name

    from fairlead.ui import Display

    display = Display(quiet=options.quiet)
    if options.dry_run:
        from fairlead.cli.output import show_log
        from fairlead.cli.preview import show_previews

        show_log(display)
        show_previews(config, plugins, only, out, display)
        return
    run_and_report(config, plugins, only, out, options.resume, display, show_summaries)


def check_out(options: RunOptions) -> None:
    """Refuse an ``--out`` that nothing can be written to, before any work.

    Raises:
        UsageError: When it is empty, lies in a file, or is not ours to write to.
    """
    if options.out is None:
        return
    if not options.out.strip():
        raise click.UsageError("--out is empty; give a directory. Is a variable unset?")
    out = Path(options.out)
    there = next((place for place in (out, *out.parents) if os.path.lexists(place)), Path())
    if not there.is_dir():
        raise click.UsageError(f"--out {out}: {there} is a file; give a directory.")
    if not options.dry_run and not os.access(there, os.W_OK | os.X_OK):
        raise click.UsageError(
            f"--out {out}: you may not write to {there}; give a directory that you may write to."
        )


def with_own_config(request: Request, options: RunOptions) -> Request:
    """Take the run's own configuration where a resume names no other."""
    if not options.resume or request.recipe is not None or request.config is not None:
        return request
    if options.out is None:
        raise click.UsageError(
            "--resume needs to know which run: give --out DIR, and its own configuration is taken."
        )
    own = Path(options.out) / CONFIG_FILE
    if not own.is_file():
        raise ConfigError(
            f"--resume: {options.out} holds no run (no {CONFIG_FILE}). Give the --out of a run "
            "that was begun, or start one with --recipe or --config."
        )
    return Request(None, str(own), request.overrides, request.choice)


def choose_stage(config: RunConfig, component: str, wanted: str | None) -> str:
    """Return the name of the one stage to run.

    Raises:
        ConfigError: When no stage fits, or several do and none was chosen.
    """
    fitting = [name for name, spec in config.stages.items() if spec.name == component]
    there = ", ".join(f"{name} ({spec.name})" for name, spec in config.stages.items())
    if wanted is not None:
        if wanted not in fitting:
            raise ConfigError(
                f"--stage {wanted}: there is no stage of that name that `fairlead {component}` "
                f"can run. It can run: {listing(fitting)}. All stages: {there}."
            )
        return wanted
    if not fitting:
        raise ConfigError(
            f"`fairlead {component}` runs the stage whose name: is {component}, and the "
            f"configuration has none. Its stages: {there}."
        )
    if len(fitting) > 1:
        raise ConfigError(
            f"the configuration has several stages that `fairlead {component}` can run: "
            f"{', '.join(fitting)}. Choose one with --stage NAME, or run them all with "
            "`fairlead pipeline`."
        )
    return fitting[0]


def run_and_report(
    config: RunConfig,
    plugins: Plugins,
    only: list[str] | None,
    out: Path,
    resume: bool,
    display: Display,
    show: Callable[[dict[str, Any], Display], None],
) -> None:
    """Run stages and show what came of them; of a whole pipeline, write the report.

    Args:
        config: The run's configuration.
        plugins: The loaded plugins.
        only: Names of stages; None: all of them, with a report at the end.
        out: The run's directory.
        resume: Whether to go on with what is there.
        display: Where progress is shown.
        show: Shows the stages' summaries.
    """
    from fairlead.cli.output import show_log
    from fairlead.runner import MANIFEST, run

    show_log(display)
    manifest = out / MANIFEST
    before = _changed(manifest)
    try:
        summaries = run(config, plugins, out, resume=resume, only=only, display=display)
    except Exception:
        # A refusal before any work has no report to write: what lies there is another run's.
        if only is None and _changed(manifest) != before:
            _report(out, display)
        raise
    if not display.quiet:
        show(summaries, display)
    display.note(f"written to {out}")
    if only is None:
        _report(out, display)


def show_summaries(summaries: dict[str, Any], display: Display) -> None:
    """Show every number and word of the stages' summaries."""
    rows = [
        (stage, key, _short(value))
        for stage, summary in summaries.items()
        for key, value in summary.items()
        if isinstance(value, (int, float, str))
    ]
    display.table("", ("stage", "result", "value"), rows)


def _changed(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.is_file() else None


def _report(out: Path, display: Display) -> None:
    """Write the report; a fault in it must not hide how the run itself ended."""
    from fairlead.report import write_report

    try:
        display.note(f"report: {write_report(out)}")
    except Exception as error:
        display.warn(f"the report could not be written: {error}. Try `fairlead report {out}`.")


def _short(value: object) -> str:
    from fairlead.ui import short

    return short(value) if isinstance(value, float) else str(value)

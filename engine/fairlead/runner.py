"""Running a pipeline: its stages in order, its manifest, and what a resume skips."""

from __future__ import annotations

import json
import logging
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout

from fairlead.checkpoint import CheckpointStore, write_atomically
from fairlead.config import RunConfig, Spec
from fairlead.errors import ConfigError, Stopped, did_you_mean, listing
from fairlead.kernels import install_kernels
from fairlead.plugins import Plugins
from fairlead.records import Record
from fairlead.session import StopSignal
from fairlead.stages import STAGE_FILE, Preview, StageContext, read_stage, stage_finished
from fairlead.strategy import SingleDevice
from fairlead.ui import Display
from fairlead.version import __version__

log = logging.getLogger("fairlead.runner")
MANIFEST = "run.json"
LOCK = ".lock"
RUN_WIDE = ("seed", "heldout", "precision", "trust_remote_code")
"""Settings that all of a run's stages must share; ``data`` shows in the stages that use it."""


def run(
    config: RunConfig,
    plugins: Plugins,
    root: Path,
    *,
    resume: bool = False,
    only: Sequence[str] | None = None,
    display: Display | None = None,
) -> dict[str, Any]:
    """Run stages into one output directory.

    Args:
        config: The run's configuration.
        plugins: The loaded plugins.
        root: Where everything is written.
        resume: Skip finished stages and take up the newest checkpoint of the next one.
        only: Names of stages to run; default all.
        display: Where progress is shown.

    Returns:
        Each stage's summary, by name.

    Raises:
        ConfigError: Before any work, when the directory holds other work already, or another
            process is writing to it.
        FairleadError: When a stage fails; what it had done is kept.
    """
    names = _chosen(config, only)
    install_kernels(plugins)
    display = display or Display()
    strategy = _strategy(config)
    _check_directory(config, root, names, resume)
    root.mkdir(parents=True, exist_ok=True)
    summaries: dict[str, Any] = {}
    loaded: dict[str, Sequence[Record]] = {}
    with _alone(root), StopSignal() as stop:
        manifest = Manifest(root, config, plugins, strategy.device)
        for name in names:
            context = StageContext(
                name, config, root, plugins, strategy, display, stop, resume, loaded
            )
            if resume and stage_finished(context.directory):
                display.note(f"{name}: finished before, skipped")
                summaries[name] = read_stage(context.directory)["summary"]
                continue
            try:
                _check_stop(stop, name)
                summaries[name] = _run_stage(config.stages[name], context)
            except BaseException as error:
                manifest.finish("stopped" if isinstance(error, Stopped) else "failed")
                raise
    manifest.finish("finished")
    return summaries


def preview(
    config: RunConfig, plugins: Plugins, only: Sequence[str] | None = None, root: Path | None = None
) -> dict[str, Preview]:
    """Resolve every stage without training; what ``--dry-run`` shows.

    Args:
        config: The run's configuration.
        plugins: The loaded plugins.
        only: Names of stages; default all.
        root: Holds the finished stages that the chosen ones build on, if any.
    """
    previews: dict[str, Preview] = {}
    loaded: dict[str, Sequence[Record]] = {}
    quiet = Display(quiet=True)
    with tempfile.TemporaryDirectory(prefix="fairlead-dry-run-") as scratch, StopSignal() as stop:
        chosen = _chosen(config, only)
        for earlier in config.stages:
            # A chosen stage writes its preview; what it finished before must not be in reach.
            if earlier not in chosen:
                _borrow_finished(root, Path(scratch), earlier)
        for name in chosen:
            _check_stop(stop, name)
            context = StageContext(
                name, config, Path(scratch), plugins, _strategy(config), quiet, stop, False, loaded
            )
            context.directory.mkdir(exist_ok=True)
            stage = config.stages[name].build()
            previews[name] = stage.preview(context)
            # Stands in for the finished stage, so that the next one can be previewed too.
            (context.directory / STAGE_FILE).write_text('{"status": "finished"}')
    return previews


def _check_stop(stop: StopSignal, name: str) -> None:
    """End between two stages when a signal came while the one before was finishing."""
    if stop.name:
        raise Stopped(f"stopped by {stop.name} before stage {name!r}. Go on with --resume.")


def _borrow_finished(root: Path | None, scratch: Path, name: str) -> None:
    here = scratch / name
    if root is not None and not here.exists() and stage_finished(root / name):
        here.symlink_to((root / name).resolve(), target_is_directory=True)


def _chosen(config: RunConfig, only: Sequence[str] | None) -> list[str]:
    for name in only or ():
        if name not in config.stages:
            raise ConfigError(
                f"there is no stage named {name!r}{did_you_mean(name, config.stages)}. "
                f"Stages: {listing(config.stages)}."
            )
    return [name for name in config.stages if only is None or name in only]


def _strategy(config: RunConfig) -> SingleDevice:
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return SingleDevice(
        config.device,
        config.precision,
        config.attention,
        gradient_checkpointing=config.gradient_checkpointing,
        offload=config.offload,
    )


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keep other processes from writing to a run's directory; the system ends it with ours."""
    lock = FileLock(root / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigError(
            f"another process is writing to {root}. Wait until it has ended, or give another --out."
        ) from error
    except NotImplementedError:  # a file system without locks: nobody is kept out
        log.debug("%s has no file locks", root)
    try:
        yield
    finally:
        lock.release()


def _check_directory(config: RunConfig, root: Path, names: Sequence[str], resume: bool) -> None:
    """Refuse to write over other work, or to resume with another configuration."""
    if root.exists() and not root.is_dir():
        raise ConfigError(f"--out {root} is a file; give a directory.")
    for name in names:
        status = read_stage(root / name).get("status")
        if not resume and _holds_work(root / name):
            raise ConfigError(
                f"{root / name} holds a {status} stage already. Add --resume to go on with it, "
                "or give another --out."
            )
    before = _read_manifest(root)
    if resume and not before:
        raise ConfigError(f"--resume: {root} holds no run (no {MANIFEST}). Start without --resume.")
    changed = _changed_work(before.get("config", {}), config.model_dump(mode="json"), root)
    if changed:
        raise ConfigError(
            f"{root} holds work of another configuration: {'; '.join(changed[:5])}. Go on with the "
            "same one, start in another --out, or remove a stage's directory to begin that stage "
            "anew."
        )


def _read_manifest(root: Path) -> dict[str, Any]:
    """Return what ``run.json`` holds; empty when there is none.

    Raises:
        ConfigError: When it is damaged.
    """
    path = root / MANIFEST
    if not path.is_file():
        return {}
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return data
    except ValueError as error:
        raise ConfigError(
            f"{path} is damaged ({error}), so it is not known what {root} holds. Start in another "
            "--out; models of finished stages can be given as directories."
        ) from error


def _changed_work(before: dict[str, Any], now: dict[str, Any], root: Path) -> list[str]:
    """Return what differs of the settings that work in the directory was done with.

    A stage that holds no work may change: a learning rate that gave NaN, a mistyped path.
    """
    done = [name for name in before.get("stages", {}) if _holds_work(root / name)]
    if not done:
        return []
    shared = {key: before[key] for key in RUN_WIDE if key in before}
    stages = {"stages": {name: before["stages"][name] for name in done}}
    present = {
        **{key: now[key] for key in shared},
        "stages": {name: now["stages"].get(name) for name in done},
    }
    return _differences({**shared, **stages}, present)


def _holds_work(directory: Path) -> bool:
    """Whether a stage's directory has anything to lose: a first step that failed has not."""
    log = directory / "metrics.jsonl"
    checkpoint = CheckpointStore(directory / "checkpoints").newest()
    steps = log.is_file() and any('"step": 0,' not in line for line in log.open(encoding="utf-8"))
    return bool(stage_finished(directory) or checkpoint or steps)


def _differences(before: Any, now: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [
            line
            for key in keys
            for line in _differences(before.get(key), now.get(key), f"{path}{key}.")
        ]
    return [] if before == now else [f"{path[:-1]} was {before!r} and is {now!r}"]


def _run_stage(spec: Spec, context: StageContext) -> dict[str, Any]:
    context.directory.mkdir(parents=True, exist_ok=True)
    hook = context.plugins.hook
    begun = time.perf_counter()
    before = float(read_stage(context.directory).get("seconds", 0.0)) if context.resume else 0.0

    def note(status: str, **more: Any) -> None:
        seconds = before + time.perf_counter() - begun
        entry = {"name": context.name, "component": spec.name, "status": status}
        text = json.dumps({**entry, "seconds": seconds, **more}, indent=1)
        write_atomically(context.directory / STAGE_FILE, text)

    note("running")
    try:
        hook.stage_started(context=context)
        summary: dict[str, Any] = spec.build().run(context)
        note("finished", steps=summary.get("steps", 0), summary=summary)
    except BaseException as error:
        note("stopped" if isinstance(error, Stopped) else "failed", error=str(error))
        try:
            hook.stage_failed(error=error, context=context)
        except Exception:
            log.exception("a stage_failed hook raised; the stage's own error follows")
        raise
    # Only now: until the output is in place the checkpoints are all there is.
    CheckpointStore(context.directory / "checkpoints").clear()
    hook.stage_finished(summary=summary, context=context)
    return summary


class Manifest:
    """``run.json``: what ran, with which plugins and versions."""

    def __init__(
        self, root: Path, config: RunConfig, plugins: Plugins, device: torch.device
    ) -> None:
        self.path = root / MANIFEST
        before = _read_manifest(root)
        command = ["fairlead", *sys.argv[1:]]
        self.data: dict[str, Any] = {
            "name": config.name,
            "seed": config.seed,
            "status": "running",
            "started": before.get("started", _now()),
            "finished": None,
            "command": before.get("command", command),
            "resumed": [*before.get("resumed", []), command] if before else [],
            "versions": versions(),
            "platform": platform.platform(),
            "device": str(device),
            "threads": torch.get_num_threads(),
            "plugins": [asdict(info) for info in plugins.infos],
            "stages": list(config.stages),
            "config": config.model_dump(mode="json"),
        }
        text = yaml.safe_dump(self.data["config"], sort_keys=False, allow_unicode=True)
        write_atomically(root / "config.yaml", f"# {shlex.join(self.data['command'])}\n{text}")
        self._write()

    def finish(self, status: str) -> None:
        """Record how the run ended."""
        self.data.update(status=status, finished=_now())
        self._write()

    def _write(self) -> None:
        write_atomically(self.path, json.dumps(self.data, indent=1))


def versions() -> dict[str, str]:
    """Return the versions that decide what a run computes."""
    found = {"fairlead": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "tokenizers", "safetensors", "triton", "xformers"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


logging.getLogger("fairlead").addHandler(logging.NullHandler())

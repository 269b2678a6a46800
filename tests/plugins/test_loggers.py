"""The logger plugin: what it registers, and TensorBoard's event files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fairlead.errors import ConfigError
from fairlead.registry import Registry
from fairlead_plugins.loggers import plugin


def logger_class() -> type:
    registry = Registry()
    plugin.register_loggers(register=registry.bound("loggers", "the tests"))
    found = registry.get("loggers", "tensorboard").load()
    assert isinstance(found, type)
    return found


def make(directory: Path):  # type: ignore[no-untyped-def]
    pytest.importorskip("tensorboard")
    found = logger_class()
    return found(found.Config(), directory)  # type: ignore[attr-defined]


def read(directory: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory))  # type: ignore[no-untyped-call]
    events.Reload()  # type: ignore[no-untyped-call]
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]  # type: ignore[no-untyped-call]
        for tag in events.Tags()["scalars"]  # type: ignore[no-untyped-call]
    }


def test_metrics_become_scalars_under_their_own_names(tmp_path: Path) -> None:
    logger = make(tmp_path)
    logger.log(1, {"loss/train": 4.0})
    logger.log(2, {"loss/train": 3.5, "lr": 0.25})
    logger.close()
    assert read(tmp_path / "tensorboard") == {
        "loss/train": [(1, 4.0), (2, 3.5)],
        "lr": [(2, 0.25)],
    }


def test_a_resumed_run_shows_each_step_once(tmp_path: Path) -> None:
    for steps in ((1, 2, 3), (3, 4)):
        logger = make(tmp_path)
        for step in steps:
            logger.log(step, {"loss/train": step * 1.0 if len(steps) == 3 else step * 10.0})
        logger.close()
    assert read(tmp_path / "tensorboard")["loss/train"] == [(1, 1), (2, 2), (3, 30), (4, 40)]


def test_a_stage_that_logs_nothing_leaves_no_file(tmp_path: Path) -> None:
    make(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_without_tensorboard_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = logger_class()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'fairlead\[tensorboard\]'"):
        found(found.Config(), tmp_path)  # type: ignore[attr-defined]


def test_event_files_stay_inside_the_stage_directory() -> None:
    with pytest.raises(ValueError, match="directory"):
        logger_class().Config(directory="../elsewhere")  # type: ignore[attr-defined]


def test_registering_imports_no_torch() -> None:
    code = (
        "import sys; from fairlead_plugins.loggers import plugin; "
        "plugin.register_loggers(register=lambda name, factory: None); "
        "sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)

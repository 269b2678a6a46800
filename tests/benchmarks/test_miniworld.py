"""The benchmark over seeds: its ablations are configurations, and its tables say what was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_scripts import load

from fairlead.config import apply_overrides, build_config, read_config_file
from fairlead.plugins import load_plugins

BENCHMARK = load("miniworld")


@pytest.mark.parametrize("ablation", BENCHMARK.ABLATIONS, ids=lambda one: one.name)
def test_an_ablation_changes_only_stages_that_run_again(ablation: Any) -> None:
    plugins = load_plugins([str(ablation.plugin)] if ablation.plugin else [])
    recipe = read_config_file(Path(plugins.registry.get("recipes", "miniworld").load()))
    whole = build_config(recipe, plugins.registry)
    changed = build_config(apply_overrides(recipe, ablation.settings), plugins.registry)
    differing = {
        name for name in whole.stages if whole.stages[name].dump() != changed.stages[name].dump()
    }
    assert differing <= {*ablation.anew, *BENCHMARK.JUDGED}
    assert bool(differing) != bool(ablation.plugin)  # each does something


def test_the_mistaken_plugin_adds_the_score_at_every_response_token() -> None:
    class Rollout:
        response_mask = torch.tensor([[True, True, False]])
        scores = torch.tensor([2.0])

        def replace(self, **changes: Any) -> dict[str, Any]:
            return changes

    changed = load("every_token").shape_rewards(rollout=Rollout(), context=None)
    assert changed["token_scores"].tolist() == [[2.0, 2.0, 0.0]]
    assert changed["scores"].tolist() == [0.0]


def test_a_table_has_every_claim_and_marks_a_gate_that_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = {"claim": "c", "measure": "m", "paper": "p", "value": 0.5, "low": 0.25, "high": 0.75}
    for name, holds in (("one", True), ("two", False)):
        place = tmp_path / name / "claims"
        place.mkdir(parents=True)
        entry = {**claim, "gate": "> 0.4", "holds": holds}
        (place / "claims.json").write_text(json.dumps([entry]))
        (place / "stage.json").write_text('{"seconds": 61.0}')
    BENCHMARK.table("seed", {"1": [tmp_path / "one"], "both": [tmp_path / "one", tmp_path / "two"]})
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "| seed | gate | 1 | both |"
    good, bad = "0.50 (0.25, 0.75)", "**0.50 (0.25, 0.75)**"
    assert lines[3] == f"| c: m | > 0.4 | {good} | {good} / {bad} |"
    assert "1 min 1 s / 1 min 1 s" in lines[4]

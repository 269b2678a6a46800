"""Taking the log-probs that responses were drawn with for the old policy's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rl import rl_config, rl_models
from support import metrics, run_stages, weights

from fairlead.errors import LogprobError
from fairlead.plugins import load_plugins
from fairlead.scorer import Scorer

OFF = """
import torch
from fairlead import hookimpl
from fairlead.generation import Generated
from fairlead.generation.native import NativeBackend, NativeConfig

class Off(NativeBackend):
    '''Says of every token that it was {gap} nats likelier than it was.'''
    def generate(self, model, request):
        return [Generated(g.tokens, g.logprobs + {gap}, g.finish, g.entropy)
                for g in super().generate(model, request)]

@hookimpl
def register_rollout_backends(register):
    register("off", lambda config: Off(NativeConfig()))
"""


def train(root: Path, name: str, plugins: Any = None, **rollout: Any) -> list[dict[str, Any]]:
    raw = rl_config(root, rollout={"max_new_tokens": 6, **rollout})
    run_stages(raw, root / name, plugins=plugins)
    return metrics(root / name / "ppo")


def backend_off_by(root: Path, gap: float) -> Any:
    plugin = root / "off.py"
    plugin.write_text(OFF.format(gap=gap))
    return load_plugins(extra=[str(plugin)])


def test_reuse_saves_the_pass_and_trains_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two iterations; the pass for the policy goes, that for the reference stays."""
    rl_models(tmp_path, initializer_range=0.2)
    passes: list[Any] = []
    real = Scorer.logprobs

    def spy(self: Scorer, model: Any) -> Any:
        passes.append(model)
        return real(self, model)

    monkeypatch.setattr(Scorer, "logprobs", spy)
    recomputed = train(tmp_path, "recomputed")
    assert len(passes) == 2 * 2
    passes.clear()
    reused = train(tmp_path, "reused", reuse_rollout_logprobs=True)
    assert len(passes) == 2
    assert "rollout/sampler_drift_mean" in recomputed[0]
    assert not any("sampler" in name for name in reused[0])
    for theirs, ours in zip(recomputed, reused, strict=True):
        assert ours["val/logprob_gap_first"] <= 1e-5
        assert ours["objective/kl"] == pytest.approx(theirs["objective/kl"], abs=1e-4)
        assert ours["objective/entropy"] == pytest.approx(theirs["objective/entropy"], abs=1e-3)
    one, other = weights(tmp_path / "recomputed" / "ppo"), weights(tmp_path / "reused" / "ppo")
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-3)


def test_log_probs_that_are_off_end_the_run_before_a_step_is_taken(tmp_path: Path) -> None:
    """Fidelity item 13."""
    rl_models(tmp_path)
    plugins = backend_off_by(tmp_path, 0.06)
    settings = {"backend": "off", "reuse_rollout_logprobs": True}
    with pytest.raises(LogprobError, match=r"differ by 0\.06.*0\.05 are allowed.*No step"):
        train(tmp_path, "off", plugins, **settings)
    rows = train(tmp_path, "tolerated", plugins, **settings, reuse_tolerance=0.07)
    assert rows[0]["val/logprob_gap_first"] == pytest.approx(0.06, abs=1e-4)


def test_without_reuse_the_drift_is_logged_and_does_no_harm(tmp_path: Path) -> None:
    """Fidelity item 13. r = -0.25 at every token: k3 = exp(-0.25) - 1 + 0.25 = 0.0288008."""
    rl_models(tmp_path)
    (first, _) = train(tmp_path, "off", backend_off_by(tmp_path, 0.25), backend="off")
    for name in ("mean", "p99", "max"):
        assert first[f"rollout/sampler_drift_{name}"] == pytest.approx(0.25, abs=1e-4)
    assert first["rollout/sampler_k3"] == pytest.approx(0.0288008, abs=1e-4)
    assert first["val/ratio_first"] == pytest.approx(1.0, abs=1e-5)


def test_every_phase_has_seconds_and_memory(tmp_path: Path) -> None:
    rl_models(tmp_path)
    (first, _) = train(tmp_path, "out")
    phases = ("generate", "logprobs", "reference", "values", "reward", "update")
    assert {name for name in first if name.startswith("time/")} == {f"time/{n}" for n in phases}
    assert all(first[f"time/{name}"] > 0 for name in phases)
    # The episodes by the seconds of all that is done: nothing large goes untold.
    assert sum(first[f"time/{name}"] for name in phases) <= 8 / first["eps"]
    memory = [first[f"memory/{name}"] for name in phases if f"memory/{name}" in first]
    assert all(0.05 < peak < 64 for peak in memory)

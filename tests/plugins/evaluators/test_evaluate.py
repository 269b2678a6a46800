"""The evaluate stage: every evaluator on every model, and what it writes down."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rl import rl_models
from support import configure, context, run_stages, save_causal, word_tokenizer

from fairlead.errors import ConfigError, Stopped
from fairlead.plugins import load_plugins
from fairlead.runner import preview
from fairlead_plugins.evaluators import evaluate

PROMPTS = {"name": "inline", "records": [{"prompt": f"w{i} w{i + 1}"} for i in range(6)]}
PAIRS = {
    "name": "inline",
    "records": [
        {"prompt": "w0", "chosen": "w1", "rejected": "w2"},
        {"prompt": "w0", "chosen": "w2", "rejected": "w1"},
        {"prompt": "w3", "chosen": "w1", "rejected": "w2"},
        {"prompt": "w3", "chosen": "w1", "rejected": "w2"},
    ],
}

PLAIN = '''
"""Evaluators of somebody else's: `evaluate` alone, without a number, with an error at first."""
from fairlead import hookimpl

class Plain:
    def __init__(self, config, context, tokenizer):
        pass

    def evaluate(self, model, step):
        return {"eval/parts": 2.0, "eval/plain": 5.0 if step == 0 else 6.0}

class Nothing(Plain):
    def evaluate(self, model, step):
        return {"eval/nothing": float("nan")}

class FailsOnce(Plain):
    failed = False

    def evaluate(self, model, step):
        if not FailsOnce.failed:
            FailsOnce.failed = True
            raise RuntimeError("not today")
        return {"eval/fails_once": 1.0}

@hookimpl
def register_evaluators(register):
    register("plain", Plain)
    register("nothing", Nothing)
    register("fails_once", FailsOnce)
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "plain.py").write_text(PLAIN)
    return rl_models(tmp_path)


def answered(root: Path, name: str = "task_accuracy", **changes: Any) -> dict[str, Any]:
    reward = {"name": "function", "function": f"{root / 'count.py'}:count"}
    settings = {"prompts": PROMPTS, "part": "all", "max_new_tokens": 8, "reward": reward}
    return {"name": name, **settings, **changes}


def stage(root: Path, evaluators: list[Any], models: Any = None) -> dict[str, Any]:
    if models is None:
        models = {
            "first": str(root / "policy"),
            "second": str(root / "reference"),
            "again": str(root / "policy"),
        }
    made = {"name": "evaluate", "models": models, "evaluators": evaluators}
    return {"heldout": 0.0, "stages": {"measure": made}}


def results(out: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((out / "measure" / "results.json").read_text())
    assert list(loaded) == ["evaluators"]
    return dict(loaded["evaluators"])


AGREEMENT = {"name": "agreement", "source": PAIRS, "part": "all"}


def test_every_evaluator_measures_every_model(root: Path) -> None:
    evaluators = [
        answered(root, outcome="score", label="w7"),
        # Greedy: against itself a model then says the same.
        answered(root, "win_rate", baseline=str(root / "reference"), temperature=0.0),
        {"name": "nll", "source": {"name": "inline", "records": [{"text": "w1 w2 w3 w4"}] * 4},
         "part": "all", "block_tokens": 4, "label": "plain_text"},
        AGREEMENT,
    ]  # fmt: skip
    summary = run_stages(stage(root, evaluators), root / "out")["measure"]
    found = results(root / "out")
    assert list(found) == ["w7", "win_rate", "plain_text", "agreement"]
    assert [entry["component"] for entry in found.values()] == [
        "task_accuracy", "win_rate", "nll", "agreement"
    ]  # fmt: skip
    for label in ("w7", "win_rate", "plain_text"):
        assert list(found[label]["models"]) == ["first", "second", "again"]
        for name, entry in found[label]["models"].items():
            assert set(entry) == {"metrics", "outcomes", "clusters"}
            mean = sum(entry["outcomes"]) / len(entry["outcomes"])
            assert entry["metrics"][label] == pytest.approx(mean)
            assert summary[f"{label}/{name}"] == entry["metrics"][label]
    assert list(found["agreement"]["models"]) == ["data"]
    assert found["agreement"]["models"]["data"]["outcomes"] == [0.0, 1.0]
    assert found["agreement"]["models"]["data"]["clusters"] == ["w0", "w3"]
    # 3 evaluators on 3 models, and one on the data
    assert summary["steps"] == 10
    assert summary["agreement/data"] == 0.5
    assert summary["win_rate/second"] == 0.5


def test_the_models_outcomes_are_paired(root: Path) -> None:
    """All are asked the same with the same draws: the same model twice differs nowhere."""
    evaluators = [answered(root, outcome="score", samples=4)]
    run_stages(stage(root, evaluators), root / "out")
    models = results(root / "out")["task_accuracy"]["models"]
    assert models["first"] == models["again"]
    assert models["first"]["outcomes"] != models["second"]["outcomes"]
    assert models["first"]["clusters"] == models["second"]["clusters"]
    assert len(models["first"]["outcomes"]) == 24


def test_each_model_is_loaded_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    original = evaluate.load_causal

    def spy(location: str, *args: Any, **more: Any) -> Any:
        loaded.append(Path(location).name)
        return original(location, *args, **more)

    monkeypatch.setattr(evaluate, "load_causal", spy)
    evaluators = [answered(root), answered(root, label="more", count=2)]
    run_stages(stage(root, evaluators), root / "out")
    assert loaded == ["policy", "reference", "policy"]


def test_data_can_be_measured_without_a_model(root: Path) -> None:
    summary = run_stages(stage(root, [AGREEMENT], {}), root / "out")["measure"]
    assert summary == {"steps": 1, "agreement/data": 0.5}


def test_what_stands_in_for_the_main_metric_goes_by_its_own_name(root: Path) -> None:
    """With one labeler there is no agreement among them; of a reward's 1, all its verdicts tie."""
    single = {"name": "inline", "records": PAIRS["records"][:1]}
    (root / "same.py").write_text("def same(prompts, r, metadata):\n    return [1.0] * len(r)\n")
    reward = {"name": "function", "function": f"{root / 'same.py'}:same"}
    settings = {**AGREEMENT, "source": single, "reward": reward}
    models = {"first": str(root / "policy")}
    summary = run_stages(stage(root, [settings], models), root / "out")["measure"]
    assert summary == {"steps": 1, "agreement_reward/data": 0.5}


def test_an_evaluator_that_only_evaluates_has_metrics_alone(root: Path) -> None:
    plugins = load_plugins([str(root / "plain.py")])
    models = {"first": str(root / "policy")}
    raw = stage(root, ["plain", "nothing"], models)
    summary = run_stages(raw, root / "out", plugins=plugins)["measure"]
    found = results(root / "out")
    assert found["plain"]["models"]["first"] == {
        "metrics": {"parts": 2.0, "plain": 5.0}, "outcomes": [], "clusters": []
    }  # fmt: skip
    # JSON has no NaN.
    assert found["nothing"]["models"]["first"]["metrics"] == {"nothing": None}
    assert summary == {"steps": 2, "plain/first": 5.0}


def test_labels_must_differ(root: Path) -> None:
    evaluators = [answered(root), answered(root, count=2)]
    with pytest.raises(ConfigError, match="2 of them are labelled 'task_accuracy'; give each a l"):
        configure(stage(root, evaluators))


def test_an_evaluator_of_models_needs_one(root: Path) -> None:
    with pytest.raises(ConfigError, match="none is given, and 'task_accuracy' measures one"):
        configure(stage(root, [answered(root), AGREEMENT], {}))


def test_models_of_another_vocabulary_are_refused_before_anything_is_measured(root: Path) -> None:
    swapped = ["w1", "w0", *(f"w{i}" for i in range(2, 22))]
    word_tokenizer(swapped).save_pretrained(root / "reference")
    with pytest.raises(ConfigError, match=r"model 'second' does not share.*2 of 24 tokens"):
        run_stages(stage(root, [answered(root)]), root / "out")


def test_models_that_were_asked_different_prompts_are_named(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second one's context of 9 leaves room for prompts of one token, not of two."""
    save_causal(root / "reference", max_position_embeddings=9)
    mixed = {"name": "inline", "records": [{"prompt": "w1 w2"}, {"prompt": "w3"}, {"prompt": "w4"}]}
    evaluators = [answered(root, prompts=mixed)]
    run_stages(stage(root, evaluators), root / "out")
    assert "task_accuracy measured first, second, again on different" in capsys.readouterr().err


def test_a_signal_ends_it_between_two_measurements(root: Path) -> None:
    config, plugins = configure(stage(root, [AGREEMENT, {**AGREEMENT, "label": "more"}], {}))
    made = context(root, "measure", plugins)
    made.stop.name = "SIGTERM"
    with pytest.raises(Stopped, match="stopped by SIGTERM after 1 of 2 measurements"):
        config.stages["measure"].build().run(made)
    assert list(results(root)) == ["agreement"]


def test_what_is_finished_outlives_an_error_in_a_later_evaluator(root: Path) -> None:
    """Each model is loaded once, so the first one's measurements come first."""
    plugins = load_plugins([str(root / "plain.py")])
    evaluators = [AGREEMENT, answered(root), "fails_once"]
    models = {"first": str(root / "policy"), "second": str(root / "reference")}
    raw = stage(root, evaluators, models)
    with pytest.raises(RuntimeError, match="not today"):
        run_stages(raw, root / "out", plugins=plugins)
    kept = results(root / "out")
    assert {label: list(entry["models"]) for label, entry in kept.items()} == {
        "agreement": ["data"],
        "task_accuracy": ["first"],
    }
    run_stages(raw, root / "out", plugins=plugins, resume=True)
    whole = results(root / "out")
    assert list(whole) == ["agreement", "task_accuracy", "fails_once"]
    assert list(whole["task_accuracy"]["models"]) == ["first", "second"]
    assert whole["task_accuracy"]["models"]["first"] == kept["task_accuracy"]["models"]["first"]


def dry_run(root: Path, evaluators: list[Any]) -> dict[str, Any]:
    """The facts of a preview behind an SFT and an rm stage that have not run."""
    demonstrations = [{"prompt": f"w{i}", "completion": " w1"} for i in range(4)]
    source = {"name": "inline", "records": demonstrations}
    sft = {"name": "sft", "model": str(root / "policy"), "source": source, "epochs": 1}
    rm = {"name": "rm", "model": "stage:sft", "source": PAIRS, "epochs": 1}
    raw = stage(root, evaluators, {"start": str(root / "policy"), "tuned": "stage:sft"})
    raw["stages"] = {"sft": sft, "rm": rm, **raw["stages"]}
    config, plugins = configure(raw)
    return dict(preview(config, plugins)["measure"].facts)


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ({"name": "function", "function": "nowhere.py:score"}, "'nowhere.py:score' cannot be imp"),
        ({"name": "reward_model", "model": "stage:sft"}, "is not a reward model: its config names"),
        ({"name": "classifier", "model": "stage:rm", "label": 7}, "label=7 is none of them"),
    ],
)
@pytest.mark.parametrize("within", ["itself", "a sum"])
@pytest.mark.parametrize("kind", ["task_accuracy", "win_rate", "reward", "agreement"])
def test_a_dry_run_looks_at_what_a_reward_is_made_of(
    root: Path, reward: dict[str, Any], said: str, within: str, kind: str
) -> None:
    if within == "a sum":
        reward = {"name": "sum", "terms": {"one": {"reward": reward}}}
    if kind == "agreement":
        evaluator = {**AGREEMENT, "reward": reward}
    elif kind == "win_rate":
        evaluator = answered(root, kind, baseline="stage:sft", reward=reward)
    else:
        evaluator = answered(root, kind, reward=reward)
    with pytest.raises(ConfigError, match=re.escape(said)):
        dry_run(root, [evaluator])


def test_a_dry_run_reads_the_data_and_loads_no_weights(root: Path) -> None:
    """Neither the model nor the judge exists yet; a real run would load both."""
    reward = {"name": "reward_model", "model": "stage:rm"}
    evaluators = [
        answered(root, "win_rate", baseline="stage:sft", reward=reward, count=5),
        answered(root, reward=reward),
        answered(root, "reward", reward=reward),
        {**AGREEMENT, "reward": reward},
        {"name": "nll", "source": {"name": "inline", "records": [{"text": "w1 w2 w3 w4"}] * 4},
         "part": "all", "block_tokens": 4},
    ]  # fmt: skip
    # Four documents of 4 tokens and a separator: 20 tokens, 5 blocks.
    assert dry_run(root, evaluators) == {
        "models": "start, tuned",
        "win_rate": "5 prompts against stage:sft",
        "task_accuracy": "6 prompts",
        "reward": "6 prompts",
        "agreement": "2 sets of responses, each ranked by up to 2",
        "nll": "5 blocks of 4 tokens",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cluster": "topic"}, "cluster='topic' names metadata that is not there"),
        ({"stop_tokens": ["w1 w2"]}, "a stop token"),
        ({"max_new_tokens": 63}, "none of 6 held-out prompts can be used"),
        ({"reward": {"name": "reward_model", "model": "nowhere/at/all"}}, "nowhere/at/all"),
    ],
)
def test_a_dry_run_finds_what_is_wrong(root: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        dry_run(root, [answered(root, **changes)])

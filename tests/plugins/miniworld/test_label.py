"""The labelling stage: who is asked for answers, who ranks them, and what is written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from labelling import CONTRARIAN, Lab
from support import configure, context, run_stages, tiny_config
from transformers import AutoModelForCausalLM

from fairlead.errors import ConfigError, DataError
from fairlead.records import Prompt
from fairlead.runner import preview
from fairlead.stages import StageContext
from fairlead.tokenizers import TokenizerSettings, train_tokenizer
from fairlead_plugins.miniworld.documents import documents
from fairlead_plugins.miniworld.world import Task, World

HONEST = {"labeler": {"name": "noisy", "noise": 0, "step": 0}, "people": 1}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two untrained models, `sft` and `base`, that know the words of world 0."""
    root = tmp_path_factory.mktemp("models")
    world = World(0)
    texts = documents(world, world.random("text"), 3000)
    tokenizer = train_tokenizer(TokenizerSettings(kind="words", vocab_size=600), texts)
    for seed, name in enumerate(("sft", "base")):
        torch.manual_seed(seed)
        sizes = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        config = tiny_config(vocabulary=len(tokenizer), **sizes)
        AutoModelForCausalLM.from_config(config).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


@pytest.fixture
def lab(tmp_path: Path, models: Path) -> Lab:
    return Lab(tmp_path, models)


def prompts(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["prompt"] for entry in entries]


# --- the files --------------------------------------------------------------------------


def test_every_prompt_is_ranked_once_and_everybody_gets_their_share(lab: Lab) -> None:
    summary = lab.run()
    comparisons = lab.read("comparisons")
    assert len(comparisons) == len(set(prompts(comparisons))) == summary["comparisons"] == 40
    assert summary["answers"] == sum(len(entry["responses"]) for entry in comparisons)
    assert summary["dropped_prompts"] == 0
    # One after the other: 14, 13 and 13 of 40.
    people = Counter(entry["labeler"] for entry in comparisons)
    assert people == {"staff 1": 14, "staff 2": 13, "staff 3": 13}
    for entry in comparisons:
        assert len(entry["ranks"]) == len(entry["responses"]) == len(set(entry["responses"]))
        assert min(entry["ranks"]) == 0
        assert all(
            text.startswith(" ") and text == f" {text.strip()}" for text in entry["responses"]
        )


def test_each_group_ranks_the_same_answers_to_the_held_out_prompts_alone(
    lab: Lab, tmp_path: Path
) -> None:
    lab.run(staff={"people": 3}, heldout_staff={"people": 2}, fewest=9)
    comparisons = {entry["prompt"]: entry for entry in lab.read("comparisons")}
    split = context(tmp_path, "split", heldout=0.3)
    heldout = {record.prompt_text for record in lab_prompts(split, 40) if split.is_heldout(record)}
    assert 4 <= len(heldout) <= 20
    ranks = []
    for name, people in (("staff", 3), ("heldout_staff", 2)):
        entries = lab.read(name)
        group = name.replace("_", " ")
        expected = {(prompt, f"{group} {n + 1}") for prompt in heldout for n in range(people)}
        assert {(entry["prompt"], entry["labeler"]) for entry in entries} == expected
        assert len(entries) == len(heldout) * people
        for entry in entries:
            assert entry["responses"] == comparisons[entry["prompt"]]["responses"]
        ranks += [tuple(entry["ranks"]) for entry in entries]
    # All answers are equally wrong, so that mistakes decide: no two people share them, of one
    # group or two, and no two prompts.
    assert len(set(ranks)) == len(ranks) == len(heldout) * 5
    by_staff = [(e["prompt"], e["labeler"], e["ranks"]) for e in lab.read("staff")]
    for prompt in heldout:  # what a comparison says is what that person says
        entry = comparisons[prompt]
        assert (prompt, entry["labeler"], entry["ranks"]) in by_staff


def lab_prompts(split: StageContext, count: int) -> list[Prompt]:
    stage = {
        "name": "pretrain",
        "model": {"model_type": "gpt2"},
        "source": {"name": "miniworld_prompts", "count": count},
        "steps": 1,
    }
    config, _ = configure({"stages": {"one": stage}}, plugins=split.plugins)
    return split.records(config.stages["one"].config.source, Prompt, "all")


RUDE, PLAIN, KIND = " you fool . soup soup .", " soup soup .", " rice rice . happy to help ."


def say_soup(times: int) -> dict[str, Any]:
    """One prompt some times over, as a source."""
    task = Task("say", "say soup two times .", False, "soup", number=2)
    record = {"prompt": task.prompt, "task": task.to_metadata()["task"]}
    return {"name": "inline", "records": [record] * times}


def test_each_group_ranks_to_its_own_taste(lab: Lab) -> None:
    # Gold: 2 for right, 1 off for rude; 2 off for wrong, 0.5 for courtesy: 1 and -1.5. The others
    # do not care for right, and take 4 off: -4 and 0.5.
    gentle = {"name": "noisy", "noise": 0, "taste": {"correct": 0, "rude": 4}}
    lab.run(
        {"sft": [RUDE], "base": [KIND]},
        prompts=say_soup(12),
        heldout=0.999,
        staff=HONEST,
        heldout_staff={"labeler": gentle, "people": 1},
    )
    for name, expected in (("staff", {RUDE: 0, KIND: 1}), ("heldout_staff", {RUDE: 1, KIND: 0})):
        ranked = [dict(zip(e["responses"], e["ranks"], strict=True)) for e in lab.read(name)]
        assert len(ranked) >= 8 and all(ranks == expected for ranks in ranked)


# --- the answers ------------------------------------------------------------------------


def test_models_are_asked_in_proportion_to_their_shares(lab: Lab) -> None:
    writers = {
        "sft": {"model": str(lab.models / "sft"), "share": 3.0},
        "base": {"model": str(lab.models / "base")},
    }
    lab.run(count=100, models=writers, fewest=4, most=6)
    by_model = Counter(name for name, _, _ in lab.asked)
    by_prompt = Counter(prompt for _, prompt, _ in lab.asked)
    assert set(by_prompt) == {task for task in prompts(lab.read("comparisons"))}
    assert set(by_prompt.values()) == {4, 5, 6}
    total = sum(by_model.values())
    assert abs(by_model["sft"] / total - 0.75) < 0.06  # 3 standard deviations of about 500


def test_each_model_has_draws_of_its_own(lab: Lab) -> None:
    lab.run()
    seeds = {name: {seed for one, _, seed in lab.asked if one == name} for name in ("sft", "base")}
    assert len(seeds["sft"]) == len(seeds["base"]) == 1
    assert seeds["sft"] != seeds["base"]


def test_equal_answers_count_once(lab: Lab) -> None:
    summary = lab.run({"sft": [" dog ."], "base": ["cat .", "  cat . "]}, fewest=2, most=3)
    asked_of: dict[str, set[str]] = {}
    for name, prompt, _ in lab.asked:
        asked_of.setdefault(prompt, set()).add(name)
    both = [prompt for prompt, names in asked_of.items() if len(names) == 2]
    comparisons = lab.read("comparisons")
    assert sorted(prompts(comparisons)) == sorted(both)
    assert 0 < summary["dropped_prompts"] == 40 - len(both) < 40
    assert all(sorted(entry["responses"]) == [" cat .", " dog ."] for entry in comparisons)


def test_empty_answers_do_not_count(lab: Lab) -> None:
    lab.run({"sft": ["", "cat .", "", "dog ."], "base": [""]}, fewest=9, most=9)
    comparisons = lab.read("comparisons")
    assert comparisons
    assert all(sorted(entry["responses"]) == [" cat .", " dog ."] for entry in comparisons)


def test_every_round_asks_for_other_answers(lab: Lab) -> None:
    summary = lab.run(rounds=2, staff={"people": 2})
    comparisons = lab.read("comparisons")
    assert summary["comparisons"] == len(comparisons) == 80
    first, second = comparisons[:40], comparisons[40:]
    assert prompts(first) == prompts(second) and len(set(prompts(first))) == 40
    for one, other in zip(first, second, strict=True):
        assert one["responses"] != other["responses"]


def test_the_same_seed_gives_the_same_files_and_another_does_not(lab: Lab) -> None:
    found = []
    for number, seed in enumerate((1, 1, 2)):
        out = lab.root / str(number)
        raw = {**lab.recipe(10, backend="hf", max_new_tokens=4), "seed": seed}
        run_stages(raw, out)
        found.append((out / "label" / "comparisons.jsonl").read_text())
    assert found[0] == found[1] != found[2]


def test_a_model_of_another_vocabulary_is_named(lab: Lab) -> None:
    other = lab.root / "other"
    tokenizer = train_tokenizer(TokenizerSettings(kind="words"), ["some other words"])
    tokenizer.save_pretrained(other)
    config = tiny_config(vocabulary=len(tokenizer))
    AutoModelForCausalLM.from_config(config).save_pretrained(other)
    writers = {"sft": {"model": str(lab.models / "sft")}, "stranger": {"model": str(other)}}
    with pytest.raises(ConfigError, match="model 'stranger' does not share the policy's vocab"):
        lab.run(models=writers)


# --- in a pipeline ----------------------------------------------------------------------


def pipeline(lab: Lab, **settings: Any) -> dict[str, Any]:
    raw = lab.recipe(20, backend="hf", max_new_tokens=4, **settings)
    raw["stages"]["rm"] = {
        "name": "rm",
        "model": str(lab.models / "sft"),
        "source": {"name": "jsonl", "path": "stage:label/comparisons.jsonl"},
        "epochs": 1,
        "max_tokens": 64,
    }
    return raw


def test_a_reward_model_trains_on_what_was_labelled(lab: Lab) -> None:
    summaries = run_stages(pipeline(lab), lab.root / "out")
    labelled = {entry["prompt"] for entry in lab.read("comparisons")}
    heldout = {entry["prompt"] for entry in lab.read("staff")}
    assert summaries["label"]["comparisons"] == len(labelled) == 20
    assert summaries["rm"]["prompts"] == len(labelled - heldout)


def test_a_dry_run_goes_through_a_pipeline_that_labels(lab: Lab) -> None:
    config, plugins = configure(pipeline(lab, rounds=2))
    shown = preview(config, plugins)
    assert shown["label"].facts["models"] == "sft, base"
    assert shown["label"].facts["comparisons"] == 40
    assert "rm" in shown and not (lab.root / "out").exists()


def test_a_dry_run_leaves_files_of_as_many_prompts(lab: Lab) -> None:
    config, _ = configure(lab.recipe(), plugins=lab.plugins())
    made = context(lab.root, "label", lab.plugins(), heldout=0.3)
    config.stages["label"].build().preview(made)
    written = {
        name: prompts([json.loads(line) for line in (made.directory / f"{name}.jsonl").open()])
        for name in ("comparisons", "staff", "heldout_staff")
    }
    assert not (lab.root / "asked.jsonl").exists()  # no model was
    lab.run()
    assert written == {name: prompts(lab.read(name)) for name in written}


# --- labelers of others -----------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a_contrarian", "z_contrarian"], ids=["before_miniworld", "after_miniworld"]
)
def test_a_labeler_of_another_distribution_ranks(
    lab: Lab, install: Callable[..., None], name: str
) -> None:
    install(name, CONTRARIAN)
    plugins = lab.plugins({"sft": [RUDE, PLAIN], "base": [KIND]})
    loaded = [info.name for info in plugins.infos]
    assert (loaded.index(name) < loaded.index("miniworld")) == (name == "a_contrarian")
    raw = lab.recipe(
        prompts=say_soup(12),
        heldout=0.999,
        fewest=9,
        staff=HONEST,
        heldout_staff={"labeler": "contrarian", "people": 1},
    )
    run_stages(raw, lab.root / "out", plugins=plugins)
    # Gold: 1 and 2 for what is right, rude or not, and -1.5 for what is wrong and courteous.
    honest, contrary = {RUDE: 1, PLAIN: 0, KIND: 2}, {RUDE: 1, PLAIN: 2, KIND: 0}
    for file, expected in (("staff", honest), ("heldout_staff", contrary)):
        ranked = [dict(zip(e["responses"], e["ranks"], strict=True)) for e in lab.read(file)]
        assert len(ranked) == 12
        assert expected in ranked  # all three were given at least once


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def rank(self, task, responses, rng): return None", "failed with TypeError: 'NoneType'"),
        (
            "def rank(self, task, responses, rng): return ['a'] * len(responses)",
            "ValueError: ",
        ),
        ("def rank(self, task, responses, rng): return [0.0]", "returned [0.0] for 9 answers"),
        ("def rank(self, task, responses): return [0.0]", "failed with TypeError: "),
        ("def rnak(self, task, responses, rng): return [0.0]", "has no attribute 'rank'"),
    ],
)
def test_what_a_labeler_does_wrong_is_told_with_its_name(
    lab: Lab, install: Callable[..., None], body: str, said: str
) -> None:
    """A dry run, which ranks scripted answers, finds it."""
    before, after = CONTRARIAN.index("def rank"), CONTRARIAN.index("@hookimpl")
    install("clumsy", f"{CONTRARIAN[:before]}{body}\n\n{CONTRARIAN[after:]}")
    plugins = lab.plugins()
    raw = lab.recipe(fewest=9, staff={"labeler": "contrarian", "people": 1})
    config, _ = configure(raw, plugins=plugins)
    with pytest.raises(DataError) as caught:
        preview(config, plugins)
    assert "the labeler 'contrarian'" in str(caught.value) and said in str(caught.value)


def test_an_unknown_labeler_lists_what_there_is(lab: Lab, install: Callable[..., None]) -> None:
    install("z_contrarian", CONTRARIAN)
    raw = lab.recipe(staff={"labeler": "noisi"})
    with pytest.raises(ConfigError) as caught:
        configure(raw, plugins=lab.plugins())
    text = str(caught.value)
    assert "stages.label.staff.labeler.name: there is no labeler named 'noisi'" in text
    assert "(did you mean 'noisy'?). There are: contrarian, noisy." in text


def test_a_wrong_range_of_answers_is_a_configuration_error(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="fewest=6 is more than most=5"):
        configure(lab.recipe(fewest=6, most=5), plugins=lab.plugins())


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"models": {}}, "models"),
        ({"staff": {"people": 0}}, "staff.people"),
        ({"rounds": 0}, "rounds"),
    ],
)
def test_settings_that_leave_nothing_to_do_are_refused(
    lab: Lab, settings: dict[str, Any], path: str
) -> None:
    with pytest.raises(ConfigError, match=rf"stages\.label\.{path}: "):
        configure(lab.recipe(**settings), plugins=lab.plugins())

"""docs/hooks.md is complete, and every plugin in it loads and runs as it stands."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import support
import torch
import yaml

from fairlead import hookspecs
from fairlead.cli import main
from fairlead.cli.plugins import describe
from fairlead.config import apply_overrides, build_config
from fairlead.errors import ConfigError
from fairlead.plugins import Plugins, load_plugins
from fairlead.records import Demonstration
from fairlead_kernels import list_implementations
from fairlead_kernels.dispatch import registry

PAGE = support.ROOT / "docs" / "hooks.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Section:
    """A part of the page under one heading, with its code blocks."""

    title: str
    text: str

    def blocks(self, language: str) -> list[str]:
        return [body for kind, body in FENCE.findall(self.text) if kind == language]

    @property
    def hook(self) -> str:
        found = re.fullmatch(r"`(\w+)`", self.title)
        return found[1] if found else ""

    @property
    def brings(self) -> str:
        found = re.findall(r"^`fairlead plugins list` says: `([^`]+)`$", self.text, re.MULTILINE)
        assert len(found) == 1, f"{self.title}: one line must say what the plugin brings"
        return str(found[0])

    @property
    def commands(self) -> list[list[str]]:
        """Each command of the section's bash blocks, split as a shell would."""
        lines = "".join(self.blocks("bash")).replace("\\\n", " ").splitlines()
        return [shlex.split(line)[1:] for line in lines if line.startswith("fairlead ")]

    def write(self, directory: Path) -> Path:
        """Write the plugin, and any file beside it; return the plugin's path."""
        for block in [*self.blocks("python"), *self.blocks("yaml")]:
            name = block.splitlines()[0].removeprefix("# ")
            (directory / name).write_text(block)
        return directory / file_name(self.blocks("python")[0])


def sections() -> list[Section]:
    """Cut the page at its headings of the second and third level."""
    # A comment in a code block is no heading: only lines outside of fences count.
    found: list[tuple[str, list[str]]] = []
    inside = False
    for line in PAGE.read_text().splitlines():
        inside ^= line.startswith("```")
        if not inside and re.match(r"##+ ", line):
            found.append((line.lstrip("# "), []))
        elif found:
            found[-1][1].append(line)
    return [Section(title, "\n".join(lines) + "\n") for title, lines in found]


def file_name(block: str) -> str:
    """The name a block's first line gives to its file."""
    return block.splitlines()[0].removeprefix("# ")


SECTIONS = sections()
EXAMPLES = {section.title: section for section in SECTIONS if section.blocks("python")}
HOOKS = {section.hook: section for section in SECTIONS if section.hook}


def all_hooks() -> set[str]:
    marked = f"{hookspecs.PROJECT}_spec"
    return {name for name, value in vars(hookspecs).items() if hasattr(value, marked)}


def test_every_hook_is_documented_and_every_documented_hook_exists():
    headings = [section.hook for section in SECTIONS if section.hook]
    assert sorted(headings) == sorted(all_hooks())


def test_every_hook_section_names_the_arguments_and_the_protocol():
    protocols = ("fairlead.components", "fairlead.stages", "fairlead.generation",
                 "fairlead.kernels", "fairlead.rollout", "--recipe", "command line",
                 "Feeds\nnothing", "Feeds nothing")  # fmt: skip
    for hook, section in HOOKS.items():
        arguments = getattr(hookspecs, hook).__code__.co_varnames
        assert "Called with" in section.text, hook
        for argument in arguments:
            assert f"`{argument}" in section.text, f"{hook} does not name {argument}"
        assert any(protocol in section.text for protocol in protocols), hook


@pytest.mark.parametrize("title", EXAMPLES)
def test_section_has_one_plugin_of_its_own_name(title):
    section = EXAMPLES[title]
    assert len(section.blocks("python")) == 1
    assert re.fullmatch(r"# \w+\.py", section.blocks("python")[0].splitlines()[0])
    assert len(section.blocks("bash")) == 1
    if section.hook:
        assert f"def {section.hook}(" in section.blocks("python")[0]


def loaded(section: Section, directory: Path) -> Plugins:
    return load_plugins(extra=[str(section.write(directory))])


@pytest.mark.parametrize("title", EXAMPLES)
def test_plugin_registers_what_its_section_says(title, tmp_path):
    section = EXAMPLES[title]
    plugins = loaded(section, tmp_path)
    row = describe(plugins, plugins.infos[-1])
    brought = [f"{k.replace('_', ' ')}: {', '.join(n)}" for k, n in row["registers"].items()]
    if row["hooks"]:
        brought.append(f"hooks: {', '.join(row['hooks'])}")
    assert "; ".join(brought) == section.brings


def overrides_of(command: list[str]) -> list[str]:
    options = {"--recipe", "--plugin", "--out"}
    skip = {number + 1 for number, word in enumerate(command) if word in options}
    return [w for number, w in enumerate(command) if "=" in w and number not in skip]


@pytest.mark.parametrize("title", EXAMPLES)
def test_command_names_the_plugin_and_its_configuration_is_valid(title, tmp_path):
    section = EXAMPLES[title]
    plugins = loaded(section, tmp_path)
    assert any(file_name(section.blocks("python")[0]) in words for words in section.commands)
    for command in section.commands:
        if "--recipe" in command:
            build_config(raw(section, command, tmp_path), plugins.registry)


def raw(section: Section, command: list[str], directory: Path) -> dict:
    """The configuration a command names: a shipped recipe, or the section's own."""
    name = command[command.index("--recipe") + 1]
    own = directory / f"{name}.yaml"
    data = yaml.safe_load(own.read_text()) if own.is_file() else support.recipe(name)
    return apply_overrides(data, overrides_of(command))


# --- running them ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """The tiny recipe up to the reward model, for the stages that are run on their own."""
    root = tmp_path_factory.mktemp("base")
    support.run_stages(support.recipe("tiny"), root, only=["pretrain", "sft", "rm"])
    return root


@pytest.fixture
def run(base, tmp_path, monkeypatch):
    """Run a section's own command in this process; only the stages named, on finished others.

    A plugin's kernel stays for the life of the process: the registry is put back afterwards.
    """
    kept = {op: list(found) for op, found in registry._implementations.items()}
    monkeypatch.setattr(registry, "_implementations", kept)
    files = tmp_path / "files"
    files.mkdir()
    out = tmp_path / "run"

    def go(title: str, only: list[str]) -> tuple[Path, dict]:
        section = EXAMPLES[title]
        plugins = loaded(section, files)
        out.mkdir()
        support.copy_finished(base, out, [s for s in ("pretrain", "sft", "rm") if s not in only])
        settings = raw(section, section.commands[0], files)
        return out, support.run_stages(settings, out, only=only, plugins=plugins)

    return go


def test_own_reward_is_what_ppo_scores_with(run):
    out, _ = run("Your own reward, end to end", ["ppo"])
    scores = {row["objective/scores"] for row in support.metrics(out / "ppo") if row["step"]}
    # A model that never saw the word does not say it; the reward model's scores are not 0.
    assert scores == {0.0}


def test_stage(run):
    out, summaries = run("`register_stages`", ["count"])
    assert summaries["count"]["words"] > 0
    assert (out / "count" / "words.txt").read_text() == f"{summaries['count']['words']}\n"


def test_data_source(run, tmp_path):
    _, summaries = run("`register_data_sources`", ["sft"])
    assert 0 < summaries["sft"]["demonstrations"] <= 16
    plugins = loaded(EXAMPLES["`register_data_sources`"], tmp_path)
    source = plugins.registry.get("data_sources", "sums").load()
    records = source(source.Config(largest=2)).load()
    assert all(isinstance(record, Demonstration) for record in records)
    assert [record.response for record in records] == [" 2", " 3", " 3", " 4"]


def test_reward(run):
    out, _ = run("`register_reward_models`", ["ppo"])
    last = support.metrics(out / "ppo")[-1]
    assert last["objective/scores"] <= 0
    assert last["scores/words"] >= 0


def test_algorithm(run):
    out, summaries = run("`register_algorithms`", ["ppo"])
    assert summaries["ppo"]["episodes"] == 6 * 8 * 4
    assert not any("loss/value_avg" in row for row in support.metrics(out / "ppo"))


def test_losses(run):
    out, summaries = run("`register_losses`", ["rm", "ppo"])
    assert summaries["rm"]["steps"] > 0
    first, last = support.metrics(out / "ppo")[1], support.metrics(out / "ppo")[-1]
    assert "loss/policy_avg" in last
    assert "policy/clipfrac_avg" not in first


def test_rollout_backend_draws_what_hf_draws(run, base, tmp_path):
    out, _ = run("`register_rollout_backends`", ["ppo"])
    theirs = tmp_path / "hf"
    support.copy_finished(base, theirs, ["pretrain", "sft", "rm"])
    support.run_stages(support.recipe("tiny"), theirs, only=["ppo"])
    for name in ("objective/scores", "rollout/response_tokens"):
        ours, hf = (
            [row[name] for row in support.metrics(root / "ppo") if name in row]
            for root in (out, theirs)
        )
        assert ours[0] == pytest.approx(hf[0], rel=1e-4)


CALL = re.compile(r"^\| `(\w+)\(([\w, ]+)\)` \| (.+) \| (.+) \|$", re.MULTILINE)
CALLS = {op: cells for op, *cells in CALL.findall(HOOKS["register_kernels"].text)}


def listed_tensors(cell):
    """Name to shape and dtype, of such as "`x`, `y` `[B, T]` float32; `mask` `[B, T]` bool"."""
    found = {}
    for part in cell.split("; "):
        (dtype,) = re.findall(r"\b(floating|float32|float64|int64|bool)\b", part)
        for names, shape in re.findall(r"([^\[]+)`\[(.*?)\]`", part):
            shape = shape.split(", ") if shape else []
            found |= dict.fromkeys(re.findall(r"`(\w+)`", names), (shape, dtype))
    return found


def assert_is(listed, tensor):
    """Whether a tensor is of a listed rank and dtype; `[...]` is any shape."""
    shape, dtype = listed
    assert shape == ["..."] or len(shape) == tensor.dim()
    assert dtype in (str(tensor.dtype).removeprefix("torch."), "floating")
    assert tensor.is_floating_point() == dtype.startswith("float")


def test_what_a_kernel_is_called_with_is_listed_for_every_operation():
    assert sorted(CALLS) == sorted(registry.operations())


@pytest.mark.parametrize("op", registry.operations())
def test_the_list_of_a_kernels_arguments_and_results_is_true(op):
    arguments, tensors, results = CALLS[op]
    reference = registry.select(op, "reference").function
    parameters = inspect.signature(reference).parameters
    assert arguments.split(", ") == list(parameters)
    listed = listed_tensors(tensors)
    assert set(listed) == {name for name, one in parameters.items() if "Tensor" in one.annotation}
    probe = registry.probe(op, torch.device("cpu"))
    for name, given in zip(parameters, probe, strict=False):
        assert (given is None) <= (f"`{name}`" in tensors and "or None" in tensors)
        if isinstance(given, torch.Tensor):
            assert_is(listed[name], given)
    returned = reference(*probe)
    returned = returned if isinstance(returned, tuple) else (returned,)
    if not isinstance(returned[-1], torch.Tensor):
        assert f"a {type(returned[-1]).__name__} of" in results
        returned = (*returned[:-1], *vars(returned[-1]).values())
    for one, listed_result in zip(returned, listed_tensors(results).values(), strict=True):
        assert_is(listed_result, one)


def test_kernel_is_what_auto_takes_on_the_cpu(run):
    _, summaries = run("`register_kernels`", ["ppo"])
    assert summaries["ppo"]["steps"] == 6
    rows = [row for row in list_implementations() if row.op == "whiten" and row.device == "cpu"]
    assert [row.impl for row in rows if row.auto] == ["double"]


def test_optimizer(run):
    _, summaries = run("`register_optimizers`", ["sft"])
    assert summaries["sft"]["heldout_loss_end"] < summaries["sft"]["heldout_loss_start"]


def test_evaluator(run):
    _, summaries = run("`register_evaluators`", ["sft"])
    assert summaries["sft"]["probe_end"] < summaries["sft"]["probe_start"]


def test_evaluator_hands_out_its_outcomes(base, tmp_path):
    plugins = loaded(EXAMPLES["`register_evaluators`"], tmp_path)
    models = {"before": str(base / "pretrain"), "after": str(base / "sft")}
    stage = {"name": "evaluate", "models": models, "evaluators": ["probe"]}
    support.run_stages({"stages": {"measure": stage}}, tmp_path / "out", plugins=plugins)
    found = json.loads((tmp_path / "out" / "measure" / "results.json").read_text())
    by_model = found["evaluators"]["probe"]["models"]
    assert by_model["after"]["metrics"]["probe"] < by_model["before"]["metrics"]["probe"]
    assert len(by_model["after"]["outcomes"]) == len(by_model["before"]["outcomes"]) > 1


def test_logger(run):
    out, _ = run("`register_loggers`", ["ppo"])
    latest = json.loads((out / "ppo" / "latest.json").read_text())
    last = support.metrics(out / "ppo")[-1]
    assert latest["step"] == 6
    assert latest["objective/kl"] == last["objective/kl"]


def test_recipe(run):
    _, summaries = run("`register_recipes`", ["pretrain"])
    assert summaries["pretrain"]["steps"] == 5


def test_command(base, tmp_path, capsys):
    path = EXAMPLES["`register_commands`"].write(tmp_path)
    assert main(["--plugin", str(path), "vocabulary", str(base / "sft")]) == 0
    assert int(capsys.readouterr().out) > 257


def test_stage_started(run):
    out, _ = run("`stage_started`", ["ppo", "compare"])
    lines = (out / "timeline.txt").read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["ppo", "compare"]


def test_shape_rewards_changes_the_scores(run, base, tmp_path):
    out, _ = run("`shape_rewards`", ["ppo"])
    plain = tmp_path / "plain"
    support.copy_finished(base, plain, ["pretrain", "sft", "rm"])
    support.run_stages(support.recipe("tiny"), plain, only=["ppo"])
    shaped, unshaped = (support.metrics(root / "ppo")[1] for root in (out, plain))
    tokens = unshaped["rollout/response_tokens"]
    fee = unshaped["objective/scores"] - shaped["objective/scores"]
    assert fee == pytest.approx(0.01 * tokens, rel=1e-3)


def test_rollout_collected(run):
    out, _ = run("`rollout_collected`", ["ppo"])
    lines = [json.loads(line) for line in (out / "ppo" / "best.jsonl").open()]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_step_finished(run, tmp_path):
    out, _ = run("`step_finished`", ["ppo"])
    assert support.metrics(out / "ppo")[-1]["step"] == 6
    plugins = loaded(EXAMPLES["`step_finished`"], tmp_path)
    warned: list[str] = []
    context = SimpleNamespace(name="ppo", display=SimpleNamespace(warn=warned.append))
    for kl in (3.0, 12.5):
        plugins.hook.step_finished(step=4, metrics={"objective/kl": kl}, context=context)
    assert warned == ["ppo: step 4: KL 12.5 nats a sequence"]


def test_checkpoint_saved(run):
    out, _ = run("`checkpoint_saved`", ["ppo"])
    assert sorted(path.name for path in (out / "kept").iterdir()) == ["ppo-2", "ppo-4", "ppo-6"]
    assert (out / "kept" / "ppo-4" / "manifest.json").is_file()


def test_stage_finished(run):
    out, _ = run("`stage_finished`", ["ppo"])
    assert "- steps: 6" in (out / "ppo" / "CARD.md").read_text()


def test_stage_failed(run, tmp_path):
    with pytest.raises(ConfigError, match="stop token"):
        run("`stage_failed`", ["ppo"])
    assert (tmp_path / "run" / "failed.txt").read_text().startswith("ppo: ConfigError")


def test_own_hooks(run):
    out, _ = run("Hooks of your own", ["ppo"])
    assert (out / "ppo" / "greeting.txt").read_text() == "goodbye, ppo"


def test_own_components(run):
    out, _ = run("Components of your own", ["dinner"])
    assert (out / "dinner" / "toast.txt").read_text() == "cheers tiny"

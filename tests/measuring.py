"""What tests of evaluators share: one made by itself, and a backend that says what it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support import configure, context

from fairlead.models import load_causal
from fairlead.plugins import Plugins, load_plugins
from fairlead.strategy import SingleDevice
from fairlead.tokenizers import load_tokenizer

SCRIPTED = '''
"""A rollout backend: the model of a directory says what SCRIPT has for the directory's name."""
import json, pathlib
import torch
from fairlead import hookimpl
from fairlead.generation import Generated

HERE = pathlib.Path(__file__).parent

class Scripted:
    def __init__(self, config):
        pass

    def generate(self, model, request):
        name = pathlib.Path(model.config._name_or_path).name
        with (HERE / "asked.txt").open("a") as asked:
            asked.write(f"{name}\\n")
        lines = json.loads((HERE / "script.json").read_text())[name]
        found = []
        for line, _ in zip(lines, request.prompts, strict=True):
            ids = torch.tensor([int(word[1:]) for word in line.split()])
            found.append(Generated(ids, torch.zeros(len(ids)), "length"))
        return found

@hookimpl
def register_rollout_backends(register):
    register("scripted", Scripted)
'''


def scripted(root: Path, script: dict[str, list[str]]) -> Plugins:
    """Write the backend and what each model says; returns the plugins with it."""
    (root / "scripted.py").write_text(SCRIPTED)
    (root / "script.json").write_text(json.dumps(script))
    return load_plugins([str(root / "scripted.py")])


def asked(root: Path) -> list[str]:
    """The models that the scripted backend was asked to speak for, in order."""
    return (root / "asked.txt").read_text().split()


def build(root: Path, settings: dict[str, Any], plugins: Plugins | None = None) -> Any:
    """An evaluator as a stage makes it, with the tokenizer of `policy`."""
    stage = {
        "name": "evaluate",
        "models": {"policy": str(root / "policy")},
        "evaluators": [settings],
    }
    raw = {"heldout": 0.0, "stages": {"stage": stage}}
    config, plugins = configure(raw, plugins=plugins or load_plugins())
    made = context(root, plugins=plugins)
    spec = config.stages["stage"].config.evaluators[0]
    return spec.build(made, load_tokenizer(str(root / "policy")))


def model(root: Path, name: str = "policy") -> Any:
    return load_causal(str(root / name), SingleDevice("cpu"), trained=False)

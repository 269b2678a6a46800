"""What tests of labelling share: models that say what they are told, and a labeler of another's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import run_stages

from fairlead.plugins import Plugins, load_plugins

TALKER = '''
"""A backend: model NAME says its lines in turn, or without any a number that grows."""
import json, pathlib
import torch
from fairlead import hookimpl
from fairlead.generation import Generated
from fairlead.tokenizers import load_tokenizer
from fairlead_plugins.miniworld.lexicon import NUMBERS

HERE = pathlib.Path(__file__).parent

def spelt(number):
    digits = "".join(NUMBERS[int(digit)] + " " for digit in str(number))
    return digits + "."

class Talker:
    def __init__(self, config):
        pass

    def generate(self, model, request):
        place = model.config._name_or_path
        name = pathlib.Path(place).name
        tokenizer = load_tokenizer(place)
        lines = json.loads((HERE / "script.json").read_text()).get(name)
        found = []
        for number, prompt in enumerate(request.prompts):
            said = lines[number % len(lines)] if lines else spelt(number)
            ids = [*tokenizer(said)["input_ids"], tokenizer.eos_token_id]
            found.append(Generated(torch.tensor(ids), torch.zeros(len(ids)), "stop"))
        with (HERE / "asked.jsonl").open("a") as asked:
            for prompt in request.prompts:
                asked.write(json.dumps([name, tokenizer.decode(prompt), request.seed]) + "\\n")
        return found

@hookimpl
def register_rollout_backends(register):
    register("talker", Talker)
'''

CONTRARIAN = '''
"""A labeler: the best answer last, without any noise."""
from fairlead import hookimpl
from fairlead_plugins.miniworld.gold import judge

class Contrarian:
    def __init__(self, config):
        pass

    def rank(self, task, responses, rng):
        worth = [judge(task, text) for text in responses]
        return tuple(float(sorted(set(worth)).index(one)) for one in worth)

@hookimpl
def register_labelers(register):
    register("contrarian", Contrarian)
'''


@dataclass
class Lab:
    """Runs of the stage in one directory, with what the models were asked."""

    root: Path
    models: Path

    def recipe(self, count: int = 40, heldout: float = 0.3, **settings: Any) -> dict[str, Any]:
        writers = {name: {"model": str(self.models / name)} for name in ("sft", "base")}
        label = {
            "name": "miniworld_label",
            "models": writers,
            "prompts": {"name": "miniworld_prompts", "count": count},
            "backend": "talker",
            **settings,
        }
        return {"heldout": heldout, "device": "cpu", "stages": {"label": label}}

    def plugins(self, script: dict[str, list[str]] | None = None) -> Plugins:
        (self.root / "talker.py").write_text(TALKER)
        (self.root / "script.json").write_text(json.dumps(script or {}))
        return load_plugins([str(self.root / "talker.py")])

    def run(
        self, script: dict[str, list[str]] | None = None, count: int = 40, **settings: Any
    ) -> dict[str, Any]:
        plugins = self.plugins(script)
        raw = self.recipe(count, **settings)
        summary: dict[str, Any] = run_stages(raw, self.root / "out", plugins=plugins)["label"]
        return summary

    def read(self, name: str) -> list[dict[str, Any]]:
        lines = (self.root / "out" / "label" / f"{name}.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    @property
    def asked(self) -> list[tuple[str, str, int]]:
        """Who was asked what, with which seed."""
        return [tuple(json.loads(line)) for line in (self.root / "asked.jsonl").open()]

"""Tiny models, tokenizers and runs that tests share. No network, no randomness unseeded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from fairlead.config import RunConfig, apply_overrides, build_config
from fairlead.plugins import Plugins, load_plugins
from fairlead.runner import run
from fairlead.session import StopSignal
from fairlead.stages import StageContext
from fairlead.strategy import SingleDevice
from fairlead.ui import Display

ROOT = Path(__file__).resolve().parent.parent

# What each family needs besides the common names to be tiny; GQA where the family has it.
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {"intermediate_size": 32, "num_key_value_heads": 2},
    "mistral": {"intermediate_size": 32, "num_key_value_heads": 2},
    "qwen2": {"intermediate_size": 32, "num_key_value_heads": 2},
    "qwen3": {"intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 8},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "gpt_neox": {"intermediate_size": 32},
}


def word_tokenizer(words: Sequence[str], *, pad: str | None = "<pad>") -> Any:
    """A tokenizer of one id a word, in the order given, then <eos> and (maybe) <pad>."""
    vocabulary = {word: index for index, word in enumerate([*words, "<eos>"])}
    if pad is not None:
        vocabulary.setdefault(pad, len(vocabulary))
    model = Tokenizer(models.WordLevel(vocabulary, unk_token=words[0]))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<eos>", pad_token=pad)


def tiny_config(family: str = "gpt2", vocabulary: int = 24, **changes: Any) -> Any:
    """A transformers configuration of 2 layers, width 16, 4 heads, 64 positions."""
    settings: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "bos_token_id": None,
        "eos_token_id": vocabulary - 2,
        "pad_token_id": vocabulary - 1,
        **FAMILIES[family],
        **changes,
    }
    return AutoConfig.for_model(family, **settings)


def save_causal(directory: Path, family: str = "gpt2", *, seed: int = 0, **changes: Any) -> Path:
    """Write a tiny random causal model with a word tokenizer `w0 w1 ...`; returns the path."""
    config = tiny_config(family, **changes)
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    words = [f"w{index}" for index in range(config.vocab_size - 2)]
    word_tokenizer(words).save_pretrained(directory)
    return directory


def save_scalar(directory: Path, family: str = "gpt2", *, seed: int = 1, **changes: Any) -> Path:
    """Write a tiny random reward model over the same vocabulary; returns the path."""
    config = tiny_config(family, num_labels=1, **changes)
    torch.manual_seed(seed)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(directory)
    words = [f"w{index}" for index in range(config.vocab_size - 2)]
    word_tokenizer(words).save_pretrained(directory)
    return directory


def configure(
    raw: Mapping[str, Any], overrides: Sequence[str] = (), plugins: Plugins | None = None
) -> tuple[RunConfig, Plugins]:
    """Validate a configuration given as plain data, with the installed plugins."""
    plugins = plugins or load_plugins()
    return build_config(apply_overrides(dict(raw), overrides), plugins.registry), plugins


def run_stages(
    raw: Mapping[str, Any],
    out: Path,
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
    only: Sequence[str] | None = None,
    plugins: Plugins | None = None,
) -> dict[str, Any]:
    """Run a configuration quietly; returns each stage's summary."""
    config, plugins = configure(raw, overrides, plugins)
    return run(config, plugins, out, resume=resume, only=only, display=Display(quiet=True))


def context(root: Path, name: str = "stage", plugins: Plugins | None = None, **top: Any) -> Any:
    """A stage context for a component tested by itself; `top` are top-level settings."""
    plugins = plugins or load_plugins()
    raw = {"heldout": 0.0, **top, "stages": {name: minimal_stage()}}
    config, plugins = configure(raw, plugins=plugins)
    (root / name).mkdir(parents=True, exist_ok=True)
    return StageContext(
        name, config, root, plugins, SingleDevice("cpu"), Display(quiet=True), StopSignal()
    )


def minimal_stage() -> dict[str, Any]:
    """Any valid stage; a context needs a configuration, and a configuration a stage."""
    return {
        "name": "pretrain",
        "model": {"model_type": "gpt2"},
        "source": {"name": "inline", "records": [{"text": "a"}]},
        "steps": 1,
    }


def recipe(name: str) -> dict[str, Any]:
    """A shipped recipe as plain data."""
    loaded: dict[str, Any] = yaml.safe_load(
        (ROOT / "engine/fairlead/recipes" / f"{name}.yaml").read_text()
    )
    return loaded


def metrics(stage_directory: Path) -> list[dict[str, float]]:
    """The lines of a stage's metrics.jsonl."""
    return [json.loads(line) for line in (stage_directory / "metrics.jsonl").open()]


def weights(directory: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a saved model."""
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")


def copy_finished(source: Path, target: Path, stages: Sequence[str]) -> None:
    """Copy finished stages into a new run directory, so that a test runs only the next one."""
    for name in stages:
        shutil.copytree(source / name, target / name)


STOPPER = '''
"""A plugin that asks for a stop, by a real SIGTERM, after one step of one stage."""
import os, signal
from fairlead import hookimpl

@hookimpl
def step_finished(step, metrics, context):
    if context.name == os.environ["STOP_STAGE"] and step == int(os.environ["STOP_STEP"]):
        os.kill(os.getpid(), signal.SIGTERM)
'''

"""``fairlead generate``: text to stdout, from an argument or stdin."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from fairlead.generation import cache
from fairlead.tokenizers import TokenizerSettings, train_tokenizer

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of random weights with a context of 32."""
    directory = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(TokenizerSettings(vocab_size=260), ["a b c"])
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=32,
        n_embd=8,
        n_layer=1,
        n_head=1,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2LMHeadModel(config).save_pretrained(directory)
    return str(directory)


def test_the_same_seed_gives_the_same_text_and_another_seed_another(
    fairlead: Run, model: str
) -> None:
    def text(*more: object) -> str:
        done = fairlead("generate", "--model", model, "hi", "--max-new-tokens", 12, *more)
        assert done.code == 0, done.err
        assert done.err == ""
        return str(done.out)

    assert text("--seed", 1) == text("--seed", 1)
    assert text("--seed", 1) != text("--seed", 2)
    assert text("--temperature", 0, "--seed", 1) == text("--temperature", 0, "--seed", 2)


def test_the_prompt_may_come_from_stdin(
    fairlead: Run, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("generate", "--model", model, "--max-new-tokens", 5)
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\n"))
    assert fairlead(*arguments).out == fairlead(*arguments, "hi").out


def test_a_stop_token_ends_the_text_and_is_not_part_of_it(fairlead: Run, model: str) -> None:
    arguments = ("generate", "--model", model, "hi", "--max-new-tokens", 20, "--seed", 3)
    whole = fairlead(*arguments).out.removesuffix("\n")
    stop = next(char for char in whole if char.isascii() and char.isprintable())
    stopped = fairlead(*arguments, "--stop", stop).out.removesuffix("\n")
    assert stopped == whole[: whole.index(stop)]


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_an_error(fairlead: Run, model: str, prompt: str) -> None:
    done = fairlead("generate", "--model", model, prompt)
    assert done.code == 2
    assert "the prompt is empty" in done.err
    assert done.out == ""


def test_a_prompt_that_fills_the_context_is_an_error(fairlead: Run, model: str) -> None:
    done = fairlead("generate", "--model", model, "x" * 32)
    assert done.code == 2
    assert "the prompt is 32 tokens long and the model takes 32 in all" in done.err
    fits = fairlead("generate", "--model", model, "x" * 31, "--temperature", 0)
    assert fits.code == 0


def test_a_directory_without_a_model_and_a_stop_of_two_tokens_are_errors(
    fairlead: Run, model: str, tmp_path: Path
) -> None:
    nothing = fairlead("generate", "--model", tmp_path, "hi")
    assert nothing.code == 2
    assert "is not a model directory" in nothing.err
    long = fairlead("generate", "--model", model, "hi", "--stop", "xyz")
    assert long.code == 2
    assert "'xyz' is 3 tokens" in long.err


@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda", "the device cuda was asked for"), ("tpu", "there is no device 'tpu'")],
)
def test_advice_on_a_device_fits_the_option_and_the_setting(
    fairlead: Run, model: str, monkeypatch: pytest.MonkeyPatch, device: str, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = fairlead("generate", "--model", model, "hi", "--device", device)
    assert done.code == 2
    said = " ".join(done.err.split())
    assert message in said
    assert "device=NAME to a training command, --device NAME to others" in said


def test_a_cache_that_does_not_fit_is_refused_with_this_commands_option(
    fairlead: Run, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "free_memory", lambda _: 0)
    done = fairlead("generate", "--model", model, "hi")
    assert done.code == 2
    assert "--max-new-tokens" in done.err


@pytest.mark.parametrize(
    "option", [("--temperature", -1), ("--max-new-tokens", 0), ("--seed", 2**32)]
)
def test_settings_out_of_range_are_errors(
    fairlead: Run, model: str, option: tuple[str, int]
) -> None:
    assert fairlead("generate", "--model", model, "hi", *option).code == 2


BAD_KERNEL = """
from fairlead import hookimpl
from fairlead.kernels import Kernel

@hookimpl
def register_kernels(register):
    register("packed_liner/mine", lambda: Kernel(lambda *args: args[0]))
"""


@pytest.mark.parametrize("bench", [False, True])
def test_a_plugins_kernels_are_installed(
    fairlead: Run, model: str, plugin_file: Callable[[str, str], str], bench: bool
) -> None:
    """One for an operation that there is not says so; before, it was not even looked at."""
    plugin = ("--plugin", plugin_file("wrongop", BAD_KERNEL))
    if bench:
        done = fairlead("bench", "generate", "--rows", 1, *plugin)
    else:
        done = fairlead("generate", "--model", model, "hi", *plugin)
    assert done.code != 0
    assert "registers 'mine' for 'packed_liner', which is not one of" in done.err

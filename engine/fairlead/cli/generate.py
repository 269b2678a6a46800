"""``fairlead generate``: let a model continue a prompt."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from fairlead.cli.options import PluginChoice, examples, plugin_options, warn_broken
from fairlead.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How to continue a prompt.

    Attributes:
        max_new_tokens: Longest continuation; the context may cut it shorter.
        temperature: 0 takes the likeliest token every time.
        seed: The same seed gives the same text.
        stop: Tokens that end it; none: the tokenizer's end-of-sequence token.
    """

    max_new_tokens: int
    temperature: float
    seed: int
    stop: tuple[str, ...]


@click.command(
    epilog=examples(
        'fairlead generate --model runs/first/ppo "How do I tie a bowline?"',
        "cat prompt.txt | fairlead generate --model runs/first/sft --temperature 0",
    )
)
@click.option(
    "--model", required=True, metavar="DIR", help="A finished stage's directory, or a hub name."
)
@click.argument("prompt", required=False)
@click.option("--max-new-tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="0 takes the likeliest token every time; 1 draws from the model as it is.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="The same seed gives the same text.",
)
@click.option(
    "--stop",
    multiple=True,
    metavar="TOKEN",
    help="A token that ends the text, in place of the model's own; may be given several times.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--trust-remote-code", is_flag=True, help="Let the model's directory run its own code."
)
@plugin_options()
@click.pass_context
def generate(
    ctx: click.Context,
    model: str,
    prompt: str | None,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    stop: Sequence[str],
    device: str,
    trust_remote_code: bool,
    plugin: Sequence[str],
    no_plugin: Sequence[str],
) -> None:
    """Let a model continue PROMPT, and print the text.

    Without PROMPT it is read from standard input.
    """
    from fairlead.kernels import install_kernels

    text = _prompt(prompt)
    plugins = PluginChoice.of(ctx, plugin, no_plugin).load()
    warn_broken(plugins)
    install_kernels(plugins)
    backend: Any = plugins.registry.get("rollout_backends", "native").load()
    sampling = Sampling(max_new_tokens, temperature, seed, tuple(stop))
    click.echo(
        continue_text(text, model, backend(backend.Config()), sampling, device, trust_remote_code)
    )


def _prompt(given: str | None) -> str:
    if given is None:
        if sys.stdin.isatty():
            click.echo("Type the prompt; end it with Ctrl-D.", err=True)
        # The newline that ends a line of a file is not part of what was asked.
        given = sys.stdin.read().removesuffix("\n")
    if not given.strip():
        raise ConfigError(
            "the prompt is empty. Give it as an argument, as in `fairlead generate --model DIR "
            '"Once upon"`, or on standard input.'
        )
    return given


def continue_text(
    text: str, location: str, backend: Any, sampling: Sampling, device: str, trust: bool
) -> str:
    """Return a model's continuation of a text, without its stop token.

    Raises:
        ConfigError: When the model cannot be loaded, or the prompt fills its context.
    """
    from fairlead.encode import Encoder
    from fairlead.generation import GenerationRequest
    from fairlead.models import context_length, load_causal
    from fairlead.records import Prompt, Turn
    from fairlead.strategy import SingleDevice
    from fairlead.tokenizers import load_tokenizer, stop_token_ids

    model: Any = load_causal(location, SingleDevice(device), trained=False, trust_remote_code=trust)
    tokenizer = load_tokenizer(location, trust_remote_code=trust)
    ids = Encoder(tokenizer).prompt(Prompt((Turn("user", text),)))
    context = context_length(model.config)
    if len(ids) >= context:
        raise ConfigError(
            f"the prompt is {len(ids)} tokens long and the model takes {context} in all, the "
            "answer among them. Give a shorter prompt."
        )
    longest = min(sampling.max_new_tokens, context - len(ids))
    stop = stop_token_ids(tokenizer, list(sampling.stop) or None)
    request = GenerationRequest(
        prompts=[ids],
        sequence_ids=[0],
        max_new_tokens=longest,
        stop_token_ids=stop,
        temperature=sampling.temperature,
        seed=sampling.seed,
        iteration=0,
        token_budget=len(ids) + longest,
    )
    response = backend.generate(model, request)[0]
    tokens = response.tokens.tolist()
    if response.finish == "stop":
        tokens = tokens[:-1]
    elif longest < sampling.max_new_tokens:
        click.echo(f"note: cut short, the model's context of {context} is full", err=True)
    return str(tokenizer.decode(tokens, skip_special_tokens=True))

"""Causal language models: loading, from scratch or not, and the one forward that is used.

Sequences are contiguous and padded on the right, so a causal model needs no attention mask:
no position that counts can see the padding (fidelity item 27).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.activations import GELUTanh, NewGELUActivation

from fairlead.attention import XFORMERS
from fairlead.errors import ConfigError, listing
from fairlead.linear import OneDnnLinear, use_faster_products
from fairlead.ragged import RAGGED, ragged_hidden_states, takes_ragged, use_ragged
from fairlead.strategy import Strategy
from fairlead_kernels import gelu, linear_logprobs, token_logprobs

# Loading prints progress bars and advice meant for other ways of using transformers.
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

RESIDUAL_DROPOUT = ("resid_pdrop", "hidden_dropout", "dropout")
OTHER_DROPOUT = (
    "embd_pdrop",
    "attn_pdrop",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attention_dropout_prob",
    "activation_dropout",
    "layerdrop",
)

LARGE_LOGITS = 64 << 20
"""Bytes of float32 logits beyond which log-probs go through `linear_logprobs`.

Measured in turns in one process on two cores (AVX2, float32, forward and backward, 512 to 2,048
rows, widths 384 and 768, vocabularies of 4,096, 32,000 and 50,257): 0.86 to 1.07 times as long as
through logits where these are smaller than this, 0.94 to 1.15 times where they are larger. What it
saves is memory: 2,048 x 50,257 took 240 MiB in place of 640, 4,096 x 50,257 took 270 in place of
1,424. Below, there is little to save. bfloat16, and a GPU, were not there to be measured.
"""


def check_location(location: str) -> None:
    """Refuse what is plainly meant as a directory and is none, before a hub is asked for it.

    Raises:
        ConfigError: When there is no such directory.
    """
    path = Path(location)
    spelt_as_path = location.startswith((".", "/", "~")) or location.count("/") > 1
    beside_others = path.parent != Path() and path.parent.is_dir()
    if (spelt_as_path or beside_others) and not path.is_dir():
        raise ConfigError(
            f"there is no directory {location!r}. Give the directory of a model (a finished "
            "stage's, say), or a hub name such as 'gpt2' or 'org/name'."
        )


def load_config(location: str, *, trust_remote_code: bool = False) -> Any:
    """Return a model's transformers configuration.

    Raises:
        ConfigError: When the location is no model directory and no known hub name, or an
            adapter that was not merged.
    """
    check_location(location)
    path = Path(location)
    if (path / "adapter_config.json").is_file():
        # With peft installed transformers would put the adapter on its base and say nothing; a
        # reference with the adapter switched off is then not the model it was (fidelity item 30).
        raise ConfigError(
            f"{location} is a PEFT adapter (it has an adapter_config.json), not a model of its "
            "own. Merge it into its base first (merge_and_unload, then save_pretrained into "
            "another directory), and give that directory."
        )
    if path.is_dir() and not (path / "config.json").is_file():
        raise ConfigError(
            f"{location} is not a model directory: it has no config.json. Give a directory "
            "written by save_pretrained (a finished stage's, say), or a hub name."
        )
    try:
        return AutoConfig.from_pretrained(location, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{location!r} is neither a readable model directory nor a hub name that can be "
            f"reached: {first_line(error)}"
        ) from error


def load_causal(
    location: str,
    strategy: Strategy,
    *,
    trained: bool,
    residual_dropout: float = 0.0,
    trust_remote_code: bool = False,
) -> nn.Module:
    """Load a causal language model.

    Args:
        location: A directory or hub name.
        strategy: Where it goes.
        trained: Whether its weights will change; a frozen one takes the run's precision.
        residual_dropout: Dropout on the residual branches while training; every other
            dropout is off. The RL stage trains in evaluation mode whatever this says.
        trust_remote_code: Allow the model's own code to run.

    Raises:
        ConfigError: When it cannot be loaded, or has no residual dropout to set.
    """
    config = load_config(location, trust_remote_code=trust_remote_code)
    kinds = config.architectures or []
    if kinds and all("SequenceClassification" in kind for kind in kinds):
        raise ConfigError(
            f"{location!r} is a reward model or classifier ({kinds[0]}), not a language model: it "
            "cannot generate. Give the directory of a pretrain, sft or ppo stage."
        )
    set_dropout(config, residual_dropout)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            location,
            config=config,
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(
            f"no causal language model can be loaded from {location!r}: {first_line(error)}"
        ) from error
    model, loading = loaded
    if loading["missing_keys"]:
        # transformers would fill them with random numbers: a reward model's lost head, say.
        raise ConfigError(
            f"{location!r} is not a whole causal language model: its weights lack "
            f"{listing(loading['missing_keys'])}. Give the directory of a language model."
        )
    return ready(model, strategy, trained)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text: transformers' messages are pages long."""
    return str(error).strip().split("\n")[0]


def set_dropout(config: Any, residual: float) -> None:
    """Set the dropout on residual branches, and turn every other dropout off.

    Raises:
        ConfigError: When the family has no residual dropout and some is asked for.
    """
    for name in OTHER_DROPOUT:
        if hasattr(config, name):
            setattr(config, name, 0.0)
    there = [name for name in RESIDUAL_DROPOUT if hasattr(config, name)]
    if residual > 0 and not there:
        raise ConfigError(
            f"residual_dropout={residual}: models of type {config.model_type!r} have no residual "
            "dropout. Set residual_dropout=0."
        )
    for name in there:
        setattr(config, name, residual)


def ready(model: Any, strategy: Strategy, trained: bool) -> nn.Module:
    """Place a causal model, and settle how its logits are formed."""
    # A hub model may come with sampling settings (top-k, repetition penalty); a rollout's
    # distribution is the model's own, so they are dropped, here and in what is exported.
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )
    use_fused_gelu(model)
    placed: nn.Module = strategy.place(model, trained=trained)
    placed.eval()
    use_faster_products(placed)
    placed._plain_head = _head_is_plain(placed)  # type: ignore[assignment]
    use_ragged(placed)
    return placed


def use_fused_gelu(model: nn.Module) -> None:
    """Compute GPT-2's approximation of GELU in one operation, where a model takes eight or torch's.

    The function is the same to rounding; forward and backward touch memory once.
    """
    for parent in model.modules():
        for name, child in parent.named_children():
            tanh = type(child) is nn.GELU and child.approximate == "tanh"
            if tanh or isinstance(child, NewGELUActivation | GELUTanh):
                setattr(parent, name, Gelu())


class Gelu(nn.Module):
    """The approximation of GELU by tanh, as an operation of the kernel library."""

    def forward(self, x: Tensor) -> Tensor:
        """Return GELU of each number."""
        if type(x) is not Tensor:  # recorded, and then made part of the product before it
            return nn.functional.gelu(x, approximate="tanh")
        return gelu(x)


@torch.no_grad()
def _head_is_plain(model: Any) -> bool:
    """Whether logits are just the head applied to the last hidden state.

    Some families scale or cap their logits after it. Asking the model once is surer than a
    list of families. What enters the head is enlarged for it: a fresh model's logits are so
    small that a cap would not show.
    """
    tokens = torch.arange(3, device=model.device)[None] % model.config.vocab_size
    head = model.get_output_embeddings()
    if head is None:
        return False
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 1024,))
    try:
        logits = model(input_ids=tokens).logits
    finally:
        hook.remove()
    return torch.allclose(head(hidden_states(model, tokens) * 1024).float(), logits.float())


def hidden_states(
    model: nn.Module,
    tokens: Tensor,
    positions: Tensor | None = None,
    attention: Tensor | None = None,
) -> Tensor:
    """Return the last hidden states, ``[B, S, H]``, of a causal or scalar model's body.

    Args:
        model: A transformers model with a head.
        tokens: ``[B, S]`` int64.
        positions: ``[B, S]`` int64 for packed rows; else 0..S-1.
        attention: ``[B, 1, S, S]`` bool for packed rows; else causal.
    """
    body: Any = model.base_model
    output = body(
        input_ids=tokens,
        position_ids=positions,
        attention_mask=_packed_mask(model, attention),
        use_cache=False,
    )
    hidden: Tensor = output.last_hidden_state
    return hidden


def hidden_at(
    model: nn.Module,
    tokens: Tensor,
    where: Tensor,
    lengths: Tensor | None = None,
    positions: Tensor | None = None,
    attention: Tensor | None = None,
) -> Tensor:
    """Return the last hidden states at marked positions, ``[N, H]``, in row order.

    Args:
        model: A transformers model with a head.
        tokens: ``[B, S]`` int64.
        where: ``[B, S]`` bool, N True.
        lengths: ``[B]`` int64 where rows are padded on the right: nothing is computed for the
            padding then, if the model allows that. No marked position may be past them.
        positions: As in `hidden_states`.
        attention: As in `hidden_states`.
    """
    if lengths is not None and takes_ragged(model, tokens.shape[1]):
        return ragged_hidden_states(model, tokens, lengths, where)
    return hidden_states(model, tokens, positions, attention)[where]


def _packed_mask(model: Any, attention: Tensor | None) -> Tensor | None:
    """Return the mask of packed rows as the model's attention takes it (fidelity item 3).

    Raises:
        ConfigError: When rows are wider than the model's sliding window, which a mask of
            our own would switch off.
    """
    if attention is None:
        return None
    window = getattr(model.config, "sliding_window", None)
    if window and attention.shape[-1] > window:
        raise ConfigError(
            f"packed rows of {attention.shape[-1]} tokens, and models of type "
            f"{model.config.model_type!r} here attend to the last {window} only. Use rows of at "
            f"most {window} tokens, or no packing (packing, document_mask)."
        )
    if model.config._attn_implementation in ("sdpa", RAGGED, XFORMERS):
        return attention
    # Eager attention adds its mask: a boolean one would let everything through.
    added = torch.zeros(attention.shape, dtype=model.dtype, device=attention.device)
    return added.masked_fill(~attention, torch.finfo(model.dtype).min)


def target_logits(
    model: Any,
    tokens: Tensor,
    targets: Tensor,
    positions: Tensor | None = None,
    attention: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Return the logits that predict each target token, ``[N, V]``, in row order.

    The head runs on those positions alone: position p predicts token p + 1, so the last
    prompt position predicts the first response token (fidelity item 1).

    Args:
        model: A causal language model.
        tokens: ``[B, S]`` int64.
        targets: ``[B, S]`` bool, True where a token is to be predicted; N of them.
        positions: As in `hidden_states`.
        attention: As in `hidden_states`.
        lengths: As in `hidden_at`.
    """
    predictors = predicting_positions(targets)
    if model._plain_head:
        hidden = hidden_at(model, tokens, predictors, lengths, positions, attention)
        logits: Tensor = model.get_output_embeddings()(hidden)
        return logits
    whole = model(
        input_ids=tokens,
        position_ids=positions,
        attention_mask=_packed_mask(model, attention),
        use_cache=False,
    )
    logits = whole.logits[predictors]
    return logits


def predicting_positions(targets: Tensor) -> Tensor:
    """Shift a target mask ``[B, S]`` to the positions that predict those targets."""
    if targets.shape[1] and bool(targets[:, 0].any()):
        raise ValueError("the first token of a sequence cannot be a target: nothing predicts it")
    return torch.cat([targets[:, 1:], torch.zeros_like(targets[:, :1])], dim=1)


def target_logprobs(
    model: nn.Module,
    tokens: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    positions: Tensor | None = None,
    attention: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return log-probability and entropy at each target token, ``[N]`` float32 each.

    Where the logits would be large they are not formed at once: see `LARGE_LOGITS`.
    """
    labels = tokens[targets]
    if not _forms_chunks(model, len(labels)):
        logits = target_logits(model, tokens, targets, positions, attention, lengths)
        return token_logprobs(logits, labels, temperature)
    predictors = predicting_positions(targets)
    hidden = hidden_at(model, tokens, predictors, lengths, positions, attention)
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    return linear_logprobs(hidden, head.weight, labels, temperature, head.bias)


def _forms_chunks(model: Any, rows: int) -> bool:
    """Whether the log-probs of so many tokens are computed without their logits in memory."""
    if not model._plain_head:
        return False
    head = model.get_output_embeddings()
    if type(head) not in (nn.Linear, OneDnnLinear):
        return False
    if head._forward_hooks or head._forward_pre_hooks:  # they would not be called
        return False
    return bool(rows * head.out_features * 4 > LARGE_LOGITS)


def context_length(config: Any) -> int:
    """Return the most positions a model takes."""
    return int(getattr(config, "max_position_embeddings", 0) or 1 << 30)


def parameter_count(config: Any, trust_remote_code: bool = False) -> int:
    """Return how many parameters a causal model of this configuration has."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    return sum(parameter.numel() for parameter in model.parameters())


def save_model(model: Any, tokenizer: Any, directory: Path) -> None:
    """Write a plain transformers directory."""
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)

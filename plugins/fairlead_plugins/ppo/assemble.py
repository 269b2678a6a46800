"""Putting the RL stage together from its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fairlead.components import Algorithm
from fairlead.config import Config, Spec, model_references
from fairlead.encode import Encoder
from fairlead.errors import ConfigError, DataError
from fairlead.memory import memory_estimate
from fairlead.models import context_length, load_causal, parameter_count
from fairlead.optim import Updater, WeightAverage
from fairlead.records import Prompt
from fairlead.respond import prompt_room
from fairlead.rollout import Actors
from fairlead.scalar import load_scalar
from fairlead.scoring import check_reward
from fairlead.stages import Preview, StageContext
from fairlead.tokenizers import check_same_vocabulary, stop_token_ids
from fairlead_plugins.ppo.config import PpoStageConfig
from fairlead_plugins.ppo.update import Learner


@dataclass(frozen=True)
class Crew:
    """Everything an RL loop works with.

    Attributes:
        actors: Who collects rollouts.
        learner: What learns from them.
        prompts: Prompt records with their ids.
        dropped: Prompts left out for their length.
    """

    actors: Actors
    learner: Learner
    prompts: Sequence[tuple[Prompt, list[int]]]
    dropped: int


def assemble(cfg: PpoStageConfig, context: StageContext) -> Crew:
    """Load and check everything.

    Raises:
        ConfigError: When the parts do not fit together.
        DataError: When no prompt can be used.
    """
    trust = context.config.trust_remote_code
    strategy = context.strategy
    algorithm: Algorithm = cfg.algorithm.build()
    start = context.locate(cfg.policy)
    tokenizer = context.tokenizer(cfg.policy)
    prompts, dropped = encode_prompts(cfg, context, tokenizer)
    policy: Any = load_causal(start, strategy, trained=True, trust_remote_code=trust)
    reference, value = None, None
    if algorithm.needs_reference:
        _check_reference(cfg.reference or cfg.policy, tokenizer, context)
        location = context.locate(cfg.reference or cfg.policy)
        # Held like the policy, though it is frozen: rounded otherwise it would be a KL before
        # the first step.
        reference = load_causal(location, strategy, trained=True, trust_remote_code=trust)
        reference.requires_grad_(False)
        strategy.set_aside(reference)
    if algorithm.needs_critic:
        location = context.locate(_value_start(cfg, context, tokenizer))
        value = load_scalar(location, strategy, trained=True, trust_remote_code=trust)
    actors = Actors(
        policy=policy,
        reference=reference,
        value=value,
        reward=cfg.reward.build(context, tokenizer),
        backend=cfg.rollout.backend.build(),
        tokenizer=tokenizer,
        stop_token_ids=stop_token_ids(tokenizer, cfg.rollout.stop_tokens),
        strategy=strategy,
    )
    average = cfg.weight_average
    learner = Learner(
        policy=policy,
        value=value,
        policy_updater=Updater(policy, cfg.optimizer, cfg.lr, cfg.clip),
        value_updater=Updater(value, cfg.value_optimizer, cfg.value_lr, cfg.clip)
        if value is not None
        else None,
        algorithm=algorithm,
        policy_loss=_loss(cfg.policy_loss, "policy", algorithm.default_policy_loss, context),
        value_loss=_loss(cfg.value_loss, "value", algorithm.default_value_loss, context)
        if value is not None
        else None,
        auxiliary=[spec.build(context, tokenizer) for spec in cfg.auxiliary],
        average=WeightAverage(policy, average.decay) if average else None,
        strategy=strategy,
        config=cfg,
    )
    return Crew(actors, learner, prompts, dropped)


def encode_prompts(
    cfg: PpoStageConfig, context: StageContext, tokenizer: Any
) -> tuple[list[tuple[Prompt, list[int]]], int]:
    """Return the training prompts with their ids, and how many were too long."""
    readers = [cfg.policy, cfg.reference, cfg.value, *model_references(cfg.reward.dump())]
    configs = [context.model_config(reference) for reference in readers if reference]
    shortest = min(context_length(config) for config in configs)
    room = prompt_room(shortest, cfg.rollout.max_new_tokens)
    limit = min(cfg.rollout.max_prompt_tokens, room)
    encoder = Encoder(tokenizer)
    found = [(r, encoder.prompt(r)) for r in context.records(cfg.prompts, Prompt)]
    kept = [(record, ids) for record, ids in found if 0 < len(ids) <= limit]
    if not kept:
        raise DataError(
            f"stage {context.name!r}: none of {len(found)} prompts can be used: a prompt may have "
            f"1 to {limit} tokens (max_prompt_tokens={cfg.rollout.max_prompt_tokens}; the shortest "
            f"context of policy, reference, value model and reward model, {shortest}, less "
            f"max_new_tokens={cfg.rollout.max_new_tokens}). Change these limits, or give shorter "
            "prompts."
        )
    return kept, len(found) - len(kept)


def _check_reference(reference: str, tokenizer: Any, context: StageContext) -> None:
    """Refuse references that would make the KL mean something else."""
    config = context.model_config(reference)
    if config.vocab_size < len(tokenizer):
        raise ConfigError(
            f"the reference {reference!r} has {config.vocab_size} tokens and the policy's "
            f"tokenizer {len(tokenizer)}. The KL needs one vocabulary: use the model the policy "
            "starts from."
        )
    check_same_vocabulary(tokenizer, context.tokenizer(reference), "the reference")


def _value_start(cfg: PpoStageConfig, context: StageContext, tokenizer: Any) -> str:
    if cfg.value is None:
        raise ConfigError(
            f"stage {context.name!r}: the algorithm {cfg.algorithm.name!r} trains a value model. "
            "Set value: to where it starts, such as the reward model (value: stage:rm)."
        )
    check_same_vocabulary(tokenizer, context.tokenizer(cfg.value), "the value model")
    return cfg.value


def _loss(chosen: Spec | None, role: str, default: str, context: StageContext) -> Any:
    if chosen is not None:
        return chosen.build()
    factory = context.plugins.registry.get("losses", f"{role}/{default}").load()
    return factory(getattr(factory, "Config", Config)())


def preview_stage(cfg: PpoStageConfig, context: StageContext) -> Preview:
    """Tokenise the prompts and estimate memory, without loading a model."""
    algorithm: Algorithm = cfg.algorithm.build()
    trust = context.config.trust_remote_code
    tokenizer = context.tokenizer(cfg.policy)
    prompts, dropped = encode_prompts(cfg, context, tokenizer)
    stop_token_ids(tokenizer, cfg.rollout.stop_tokens)
    config = context.model_config(cfg.policy)
    config.save_pretrained(context.directory)
    tokenizer.save_pretrained(context.directory)
    count = parameter_count(config, trust)
    models = [("policy", count, "trained")]
    if cfg.weight_average:
        models.append(("weight average", count, "averaged"))
    if algorithm.needs_reference:
        models.append(("reference", count, "reference"))
    if algorithm.needs_critic:
        value = context.model_config(_value_start(cfg, context, tokenizer))
        models.append(("value model", parameter_count(value, trust), "trained"))
    check_reward(cfg.reward, context)
    for reference in model_references(cfg.reward.dump()):
        config = context.model_config(reference)
        models.append((f"reward {reference}", parameter_count(config, trust), "frozen"))
    longest = max(len(ids) for _, ids in prompts) + cfg.rollout.max_new_tokens
    share = cfg.rollout.max_new_tokens / longest
    tokens = min(cfg.rollout.token_budget, cfg.minibatch_size * longest)
    return Preview(
        facts={
            "prompts": len(prompts),
            "left out, too long": dropped,
            "episodes": cfg.iterations * cfg.batch_size * algorithm.samples_per_prompt,
            "optimizer steps": cfg.iterations
            * cfg.epochs
            * -(-cfg.batch_size * algorithm.samples_per_prompt // cfg.minibatch_size),
        },
        sample=[
            (tokenizer.decode(prompts[0][1]), False),
            (f" <up to {cfg.rollout.max_new_tokens} sampled tokens>", True),
        ],
        memory_gib=memory_estimate(
            models,
            (int(tokens * share), len(tokenizer)),
            context.config.precision,
            context.strategy.device.type,
            context.config.offload,
        ),
    )

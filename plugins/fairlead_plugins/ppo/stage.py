"""The RL stage: PPO, and PPO-ptx when it has the pretraining mix."""

from __future__ import annotations

import time
from typing import Any

from fairlead.checkpoint import ModelState, NumberState, OptimizerState, Stateful
from fairlead.data import DataFeed
from fairlead.measure import Measure
from fairlead.models import save_model
from fairlead.phases import Phases
from fairlead.rollout import collect
from fairlead.scoring import shape_rewards
from fairlead.session import Session
from fairlead.stages import Preview, StageContext
from fairlead_plugins.ppo.assemble import Crew, assemble, preview_stage
from fairlead_plugins.ppo.config import PpoStageConfig
from fairlead_plugins.ppo.export import save_average
from fairlead_plugins.ppo.report import rollout_metrics
from fairlead_plugins.ppo.update import update


class PpoStage:
    """Trains a policy by reinforcement learning (paper, section 3.5 and appendix C.4)."""

    Config = PpoStageConfig

    def __init__(self, config: PpoStageConfig) -> None:
        self.config = config

    def run(self, context: StageContext) -> dict[str, Any]:
        """Train; returns evaluation before and after, and the last KL."""
        cfg, hook = self.config, context.plugins.hook
        # 1. Prompts, models, losses: everything that can be wrong is found here.
        crew = assemble(cfg, context)
        actors, learner, algorithm = crew.actors, crew.learner, crew.learner.algorithm
        feed = DataFeed(len(crew.prompts), context.seed("order"))
        measure = Measure(
            cfg.evaluators, cfg.evaluate_every, cfg.iterations, context, actors.tokenizer
        )
        parts = {**_parts(learner), "feed": NumberState(feed), "measure": NumberState(measure)}
        last: dict[str, float] = {}
        with Session(
            context,
            parts,
            total=cfg.iterations,
            checkpoint_every=cfg.checkpoint_every,
            label="iteration",
        ) as session:
            # A checkpoint's moments come to the device when it is read.
            context.strategy.set_aside(*learner.optimizers)
            measure.before(learner.policy, session)
            for iteration in session.steps():
                # 2. Take the next prompts.
                begun, phases = time.perf_counter(), Phases(context.strategy.device)
                prompts = [crew.prompts[i] for i in feed.take(cfg.batch_size)]
                # 3. Collect: generate, log-probs, reference, values, scores.
                rollout = collect(
                    actors,
                    prompts,
                    cfg.rollout,
                    seed=context.seed("sampler"),
                    iteration=iteration,
                    policy_version=iteration - 1,
                    samples_per_prompt=algorithm.samples_per_prompt,
                    full_kl=algorithm.needs_full_kl,
                    phases=phases,
                )
                rollout = shape_rewards(rollout, context)
                hook.rollout_collected(rollout=rollout, context=context)
                # 4. Assign credit: rewards, advantages, returns.
                credit = algorithm.assign_credit(rollout)
                # 5. Minibatches: policy and value loss, auxiliary losses, optimizer step.
                with phases("update"), context.strategy.at_hand(*learner.optimizers):
                    learned = update(
                        learner, rollout, credit, iteration, context.seed(f"split{iteration}")
                    )
                # 6. Measure, log, checkpoint.
                last = rollout_metrics(rollout, credit, iteration, algorithm)
                last["eps"] = len(rollout) / (time.perf_counter() - begun)
                measured = measure.after(learner.policy, iteration)
                session.finish(iteration, {**last, **learned, **measured, **phases.metrics()})
        # 7. Leave plain transformers directories: the raw policy, the average under ema/.
        save_model(learner.policy, actors.tokenizer, context.directory)
        if learner.average:
            save_average(learner.policy, learner.average, actors.tokenizer, context.directory)
        return {**_summary(cfg, crew, last), **measure.summary()}

    def preview(self, context: StageContext) -> Preview:
        """Tokenise the prompts and estimate memory."""
        return preview_stage(self.config, context)


def _summary(cfg: PpoStageConfig, crew: Crew, last: dict[str, float]) -> dict[str, Any]:
    samples = crew.learner.algorithm.samples_per_prompt
    return {
        "steps": cfg.iterations,
        "episodes": cfg.iterations * cfg.batch_size * samples,
        "prompts": len(crew.prompts),
        "dropped_too_long": crew.dropped,
        "weights": "raw",
        **({"kl_end": last["objective/kl"]} if "objective/kl" in last else {}),
    }


def _parts(learner: Any) -> dict[str, Stateful]:
    """Return everything of the learner that a resume must restore."""
    parts: dict[str, Stateful] = {
        "policy": ModelState(learner.policy),
        "policy_optimizer": OptimizerState(learner.policy_updater.optimizer),
        "algorithm": NumberState(learner.algorithm),
    }
    if learner.value is not None:
        parts["value"] = ModelState(learner.value)
        parts["value_optimizer"] = OptimizerState(learner.value_updater.optimizer)
    if learner.average is not None:
        parts["average"] = learner.average
    for number, loss in enumerate(learner.auxiliary):
        parts[f"auxiliary{number}"] = NumberState(loss)
    return parts

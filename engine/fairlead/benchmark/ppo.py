"""A PPO step of the real stage, on random models, with seconds and memory by phase."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fairlead.benchmark.models import Size, parameters, write_models, write_prompts
from fairlead.config import apply_overrides, build_config
from fairlead.plugins import Plugins
from fairlead.runner import run
from fairlead.ui import Display

STAGE = "ppo"


@dataclass(frozen=True)
class PpoCase:
    """What a step is.

    Attributes:
        size: Of policy, value, reward and reference model, each.
        batch: Episodes a step.
        minibatches: Optimizer steps a step.
        prompt: Tokens.
        response: Most tokens.
        mean_length: Mean of geometric lengths, or None: all as long as allowed.
        device: Where.
        precision: ``float32`` or ``bfloat16``.
        reuse: Take the rollout's log-probs for the old policy's.
        steps: Measured, after one that warms up.
    """

    size: Size
    batch: int
    minibatches: int
    prompt: int
    response: int
    mean_length: int | None
    device: str
    precision: str
    reuse: bool
    steps: int


@dataclass(frozen=True)
class PpoResult:
    """Medians over the measured steps.

    Attributes:
        seconds: Of a whole step.
        phases: Seconds by phase.
        peak_gib: Memory by phase, at its peak.
        response_tokens: Of a response, on average.
        matrix_flops: Of a step, by formula (see `step_flops`).
    """

    seconds: float
    phases: dict[str, float]
    peak_gib: dict[str, float]
    response_tokens: float
    matrix_flops: float

    def as_dict(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)


def prepare(case: PpoCase, directory: Path) -> None:
    """Write the models and the prompts."""
    directory.mkdir(parents=True, exist_ok=True)
    write_models(directory, case.size, case.mean_length)
    write_prompts(directory / "prompts.jsonl", case.size, 4 * case.batch, case.prompt)


def measure(case: PpoCase, directory: Path, plugins: Plugins, display: Display) -> PpoResult:
    """Run the stage on what `prepare` wrote, and read its log."""
    config = build_config(apply_overrides(_run_of(case, directory), []), plugins.registry)
    run(config, plugins, directory / "run", display=display)
    lines = (directory / "run" / STAGE / "metrics.jsonl").read_text().splitlines()
    return result(case, [row for row in map(json.loads, lines) if "time/update" in row][1:])


def least_memory(case: PpoCase) -> tuple[int, int]:
    """Return the bytes that are held at the least, of the models and of one step's sequences.

    Policy and value model with gradients and two moments in float32, reference and reward model as
    they are; prompts for four steps, and seven numbers a response token.
    """
    frozen = 2 if case.precision == "bfloat16" else 4
    models = case.size.weights * (2 * 16 + 2 * frozen)
    return models, case.batch * (4 * 8 * case.prompt + 7 * 4 * case.response)


def result(case: PpoCase, rows: Sequence[dict[str, float]]) -> PpoResult:
    """Return medians of the measured steps' metrics."""

    def medians(prefix: str) -> dict[str, float]:
        names = [name for name in rows[0] if name.startswith(prefix)]
        return {
            name.removeprefix(prefix): statistics.median(row[name] for row in rows)
            for name in names
        }

    length = statistics.median(row["rollout/response_tokens"] for row in rows)
    return PpoResult(
        seconds=statistics.median(case.batch / row["eps"] for row in rows),
        phases=medians("time/"),
        peak_gib=medians("memory/"),
        response_tokens=length,
        matrix_flops=step_flops(case, length),
    )


def step_flops(case: PpoCase, response_tokens: float) -> float:
    """Return the matrix products' operations of one step, by formula.

    Two a weight and token for a forward pass, four more for its gradient. Generation and the
    passes for reference, value and reward are one forward each, old log-probs one more unless
    reused; policy and value are trained. The heads, which run on some positions only, are counted
    for response tokens; attention's own products are left out. Every layer is counted for all
    tokens, though the last one goes on with some of them (`fairlead.last_layer`): what is run may
    be less than this by most of a layer.
    """
    head = case.size.vocabulary * case.size.hidden
    body = parameters(case.size) - head
    tokens = case.batch * (case.prompt + response_tokens)
    answers = case.batch * response_tokens
    bodies = (
        1 + 3 + (0 if case.reuse else 1) + 3 + 3
    )  # generate, ref/value/reward, old, two updates
    heads = 1 + 1 + (0 if case.reuse else 1) + 3  # generate, reference, old, the policy's update
    return 2 * (bodies * body * tokens + heads * head * answers)


def _run_of(case: PpoCase, directory: Path) -> dict[str, Any]:
    policy = str(directory / "policy")
    stage = {
        "name": "ppo",
        "policy": policy,
        "value": str(directory / "value"),
        "reward": {"name": "reward_model", "model": str(directory / "reward")},
        "prompts": {"name": "jsonl", "path": str(directory / "prompts.jsonl")},
        "rollout": {
            "max_prompt_tokens": case.prompt,
            "max_new_tokens": case.response,
            "reuse_rollout_logprobs": case.reuse,
        },
        "iterations": case.steps + 1,
        "batch_size": case.batch,
        "minibatch_size": case.batch // case.minibatches,
        "lr": {"peak": 1e-6, "warmup": 0},
        "value_lr": {"peak": 1e-6, "warmup": 0},
        "weight_average": None,
        "checkpoint_every": 0,
    }
    return {
        "heldout": 0.0,
        "device": case.device,
        "precision": case.precision,
        "stages": {STAGE: stage},
    }

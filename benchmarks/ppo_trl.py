"""A PPO step of TRL's trainer, on the models and prompts that ``fairlead bench ppo --keep`` left.

TRL 1.12.0 is the last release with a PPO trainer. It runs in an environment of its own:

    python -m venv trl-env && trl-env/bin/pip install trl==1.12.0
    fairlead bench ppo --keep runs/bench
    trl-env/bin/python benchmarks/ppo_trl.py --models runs/bench --json runs/trl.json

The work is the same: one epoch, the same batch, minibatches, prompts and lengths, separate value,
reward and reference models of the policy's size, float32. Needs nothing of Fairlead.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer


class Clock(TrainerCallback):
    """Notes when each step has ended."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Called by the trainer."""
        self.times.append(time.perf_counter())


def main() -> None:
    """Train for a few steps and print the median."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--minibatches", type=int, default=8)
    parser.add_argument("--response", type=int, default=64)
    parser.add_argument("--stop", action="store_true", help="end responses at the eos token")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    words = AutoTokenizer.from_pretrained(asked.models / "policy", padding_side="left")
    lines = (asked.models / "prompts.jsonl").read_text().splitlines()
    prompts = [words(json.loads(line)["prompt"])["input_ids"] for line in lines]
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        trainer(asked, words, prompts, clock, scratch).train()
    seconds = [end - begin for begin, end in zip(clock.times, clock.times[1:], strict=False)]
    found = {
        "trl": trl.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seconds": statistics.median(seconds[1:]),
        "steps": seconds,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    print(json.dumps(found))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def trainer(
    asked: argparse.Namespace, words: Any, prompts: list[list[int]], clock: Clock, out: str
) -> PPOTrainer:
    """Put TRL's trainer together."""

    def causal() -> Any:
        return AutoModelForCausalLM.from_pretrained(asked.models / "policy", dtype=torch.float32)

    def scalar(name: str) -> Any:
        return AutoModelForSequenceClassification.from_pretrained(
            asked.models / name, num_labels=1, dtype=torch.float32
        )

    settings = PPOConfig(
        output_dir=out,
        # Minibatches are cut from it; one of them is smaller, so nothing is accumulated.
        per_device_train_batch_size=asked.batch,
        gradient_accumulation_steps=1,
        num_mini_batches=asked.minibatches,
        num_ppo_epochs=1,
        local_rollout_forward_batch_size=asked.batch,
        total_episodes=asked.batch * (asked.steps + 1),
        response_length=asked.response,
        stop_token="eos" if asked.stop else None,
        temperature=1.0,
        learning_rate=1e-6,
        num_sample_generations=0,
        report_to=[],
        save_strategy="no",
        bf16=asked.precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )
    return PPOTrainer(
        args=settings,
        processing_class=words,
        model=causal(),
        ref_model=causal(),
        reward_model=scalar("reward"),
        value_model=scalar("value"),
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
        callbacks=[clock],
    )


if __name__ == "__main__":
    main()

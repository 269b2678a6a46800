"""`bench generate` and `bench ppo`: that they measure the real thing, and what they refuse."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fairlead.benchmark import generate, models, ppo
from fairlead.benchmark.models import Size
from fairlead.cli.bench_models import check_memory
from fairlead.errors import ConfigError
from fairlead.generation import cache
from fairlead_kernels.bench.machine import Machine

Run = Callable[..., Any]
TINY = ("--layers", "1", "--hidden", "16", "--heads", "2", "--vocabulary", "64", "--device", "cpu")
HUGE = "9" * 300


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine's limits need not be measured."""

    def known(machine: Machine, dtype: torch.dtype, products: bool) -> None:
        machine.copy = 1e10
        machine.gemm[dtype] = 1e11

    monkeypatch.setattr(Machine, "measure", known)
    monkeypatch.chdir(tmp_path)


def test_generation_is_measured_beside_transformers(fairlead: Run) -> None:
    result = fairlead(
        "bench", "generate", *TINY, "--rows", "3", "--prompt", "4", "--response", "5",
        "--rounds", "2", "--json", "out.json",
    )  # fmt: skip
    assert result.code == 0, result.err
    record = json.loads(Path("out.json").read_text())
    assert [row["provider"] for row in record["rows"]] == [
        "native",
        "hf backend",
        "transformers generate",
    ]
    assert {row["tokens"] for row in record["rows"]} == {15}
    for row in record["rows"]:
        assert 0 < row["slowest"] <= row["tokens_per_second"] <= row["fastest"]
    assert record["case"]["size"]["hidden"] == 16
    assert record["provenance"]["versions"]["torch"] == torch.__version__
    assert "3 prompts of 4 tokens, up to 5 new" in result.out


def test_a_ppo_step_is_measured_by_phase(fairlead: Run) -> None:
    result = fairlead(
        "bench", "ppo", *TINY, "--batch", "4", "--minibatches", "2", "--prompt", "4",
        "--response", "5", "--steps", "1", "--json", "out.json", "--keep", "kept",
    )  # fmt: skip
    assert result.code == 0, result.err
    found = json.loads(Path("out.json").read_text())["result"]
    phases = {"generate", "logprobs", "reference", "values", "reward", "update"}
    assert set(found["phases"]) == phases
    assert 0 < sum(found["phases"].values()) <= found["seconds"]
    assert found["response_tokens"] == 5
    assert (Path("kept") / "prompts.jsonl").is_file()
    assert (Path("kept") / "policy" / "config.json").is_file()


@pytest.mark.parametrize(
    ("command", "family"),
    [
        (("generate", "--rows", "3", "--rounds", "1"), ("opt",)),
        (
            ("generate", "--rows", "3", "--rounds", "1"),
            ("qwen2", "--kv-heads", "1", "--inner", "24"),
        ),
        (("ppo", "--batch", "4", "--minibatches", "2", "--steps", "1"), ("opt", "--inner", "24")),
    ],
)
def test_other_architectures_are_measured(
    fairlead: Run, command: tuple[str, ...], family: tuple[str, ...]
) -> None:
    case = ("--family", *family, *TINY, "--prompt", "4", "--response", "5", "--json", "out.json")
    result = fairlead("bench", *command, *case)
    assert result.code == 0, result.err
    assert json.loads(Path("out.json").read_text())["case"]["size"]["family"] == family[0]


def test_flops_of_a_step_by_formula() -> None:
    """One block of width 8: 12 * 8 * 8 weights and 13 * 8 biases and norms; a head of 16 * 8.

    Body: 768 + 4 * 8 (norms) + 9 * 8 (biases: 24 + 8 + 32 + 8) + 16 (last norm) = 888. Two
    sequences of 3 + 2 tokens. 11 passes of the body (generate, three scorings, the old log-probs,
    twice three for the updates) over 10 tokens, 6 of the head over 4.
    """
    case = ppo.PpoCase(Size("gpt2", 1, 8, 2, 16), 2, 1, 3, 2, None, "cpu", "float32", False, 1)
    assert ppo.step_flops(case, 2.0) == 2 * (11 * 888 * 10 + 6 * 128 * 4)
    reused = ppo.PpoCase(Size("gpt2", 1, 8, 2, 16), 2, 1, 3, 2, None, "cpu", "float32", True, 1)
    assert ppo.step_flops(reused, 2.0) == 2 * (10 * 888 * 10 + 5 * 128 * 4)


@pytest.mark.parametrize(
    "size",
    [
        *(
            Size("gpt2", 1, 8, 2, 16),
            Size("gpt2", 3, 16, 4, 50, 70),
            Size("gpt2", 2, 8, 2, inner=5),
        ),
        *(Size("opt", 2, 16, 4, 50, 70), Size("opt", 1, 8, 2, 16, inner=24)),
        *(Size("qwen2", 2, 16, 4, 50, 70), Size("qwen2", 3, 16, 4, 50, 70, 2, 40)),
    ],
)
def test_weights_by_formula_are_those_of_the_model(size: Size) -> None:
    assert size.weights == models.causal(size, 0, None).num_parameters()


def test_what_fits_to_the_byte_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Width 8: 872 weights a block, 16 and 512 rows to look up, 2 of the last norm, 4 bytes each.

    Two sequences of 5 tokens: 2 x 8 keys and values in float32 and an id of 8 bytes a token, and
    16 logits a sequence. Two models: one as Fairlead makes it ready, one as transformers does.
    """
    case = generate.GenerateCase(Size("gpt2", 1, 8, 2, 16), 2, 3, 2, None, "cpu", "float32", 1)
    needed = (2 * 4 * (872 + 8 * (16 + 512 + 2)), 2 * 5 * (2 * 8 * 4 + 8) + 2 * 16 * 4)
    assert generate.least_memory(case) == needed
    monkeypatch.setattr(cache, "free_memory", lambda _: sum(needed))
    check_memory(*needed, "cpu")
    with pytest.raises(ConfigError, match="at least"):
        check_memory(needed[0], needed[1] + 1, "cpu")


def test_responses_end_as_often_as_asked() -> None:
    """Geometric with mean 4: a quarter of the tokens end one. 2,000 draws, 5 standard errors."""
    size = Size("gpt2", 1, 16, 2, 64)
    case = generate.GenerateCase(size, 500, 4, 64, 4, "cpu", "float32", 1)
    results = list(generate.compare(case))
    for name, tokens, _ in results:
        spread = math.sqrt(0.75) / 0.25 / math.sqrt(500)
        assert abs(tokens / 500 - 4) < 5 * spread, name
    model = models.causal(size, 0, None)
    probability = model(input_ids=torch.tensor([[1, 2]])).logits[0, -1].softmax(-1)[size.eos]
    assert float(probability) < 1e-8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "--hidden", "10", "--heads", "4"), "no multiple of --heads 4"),
        (("generate", "--vocabulary", "3"), "Give 4 up"),
        (("generate", "--kv-heads", "2"), "share keys in qwen2 alone"),
        (("generate", "--family", "qwen2", "--kv-heads", "4"), "Give a divisor of --heads"),
        (("ppo", "--family", "qwen2"), "Give gpt2 or opt"),
        (("ppo", "--family", "opt", "--mean-length", "9"), "set for a gpt2 alone"),
        (("generate", "--json", "."), "it cannot be written"),
        (("ppo", "--json", "."), "it cannot be written"),
        (("ppo", "--keep", "file/below"), "it cannot be made"),
        (("generate", "--device", "tpu"), "tpu"),
        (("ppo", "--batch", "10", "--minibatches", "4"), "no multiple of --minibatches 4"),
        (("ppo", "--keep", "."), "there already"),
        (("ppo", "--mean-length", "1"), "mean-length"),
        (("generate", "--mean-length", HUGE), "mean-length"),
        (("generate", "--rounds", HUGE), "rounds"),
        (("generate", "--rows", "1000000000"), "GiB are free on cpu. Ask for fewer"),
        *(
            (("generate", f"--{name}", HUGE, "--heads", "1", "--device", "cpu"), "over a billion")
            for name in ("rows", "prompt", "response", "layers", "hidden", "vocabulary")
        ),
        (("ppo", "--hidden", HUGE, "--heads", "1", "--keep", "new"), "over a billion GiB"),
        (("ppo", "--batch", HUGE, "--minibatches", "1"), "over a billion GiB"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    fairlead: Run, arguments: tuple[str, ...], message: str
) -> None:
    Path("file").touch()
    result = fairlead("bench", *arguments)
    assert result.code == 2
    assert not Path("new").exists()
    assert message in " ".join((result.out + result.err).split())

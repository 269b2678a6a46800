"""The SFT stage: schedule, dropout, what is left out, the epoch kept, the pretraining mix."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support import configure, context, metrics, run_stages, save_causal, weights, word_tokenizer

from fairlead import lm
from fairlead.data import cut_blocks
from fairlead.encode import Encoder
from fairlead.errors import ConfigError, DataError
from fairlead.models import load_causal
from fairlead.plugins import Plugins, load_plugins
from fairlead.records import Demonstration, Turn
from fairlead.strategy import SingleDevice

CPU = SingleDevice("cpu")
EOS = 22
DEMONSTRATIONS = [
    {"prompt": f"w{i} w{i + 1}", "completion": " " + " ".join(f"w{j}" for j in range(1, 2 + i % 4))}
    for i in range(10)
]
TEXT = [{"text": " ".join(f"w{(3 * i + j) % 20}" for j in range(9))} for i in range(12)]
PTX = {"name": "ptx", "source": {"name": "inline", "records": TEXT}, "block_tokens": 8}


def recipe(model: Path, records: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    stage = {
        "name": "sft",
        "model": str(model),
        "source": {"name": "inline", "records": records or DEMONSTRATIONS},
        "epochs": 2,
        "batch_size": 4,
        "max_tokens": 24,
        "lr": {"peak": 1e-2},
    }
    top = {key: more.pop(key) for key in ("heldout",) if key in more}
    return {"heldout": 0.0, "threads": 1, **top, "stages": {"sft": {**stage, **more}}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_causal(tmp_path_factory.mktemp("lm"))


def steps(out: Path) -> list[dict[str, float]]:
    return [line for line in metrics(out / "sft") if line["step"] > 0]


# --- the schedule -------------------------------------------------------------------------


def test_the_rate_is_cosine_from_the_peak_to_a_tenth_of_it(model: Path, tmp_path: Path) -> None:
    """10 demonstrations, 2 epochs, batches of 4: 5 steps, the middle one at 0.55 of the peak."""
    run_stages(recipe(model), tmp_path)
    rates = [line["lr"] for line in steps(tmp_path)]
    quarter = 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2
    assert rates == pytest.approx([1e-2, 1e-2 * quarter, 5.5e-3, 1e-2 * (1.1 - quarter), 1e-3])


def test_the_papers_settings_are_the_defaults(model: Path) -> None:
    """16 epochs, batch 32, cosine to 10 % of 9.65e-6 without a warm-up, no clipping."""
    source = {"name": "inline", "records": DEMONSTRATIONS}
    raw = {"name": "sft", "model": str(model), "source": source}
    config = configure({"stages": {"sft": raw}})[0].stages["sft"].config
    assert (config.epochs, config.batch_size, config.max_tokens) == (16, 32, 2048)
    assert (config.lr.peak, config.lr.shape, config.lr.final) == (9.65e-6, "cosine", 0.1)
    assert (config.lr.warmup, config.clip) == (0, None)


def test_each_demonstration_is_seen_once_an_epoch(model: Path, tmp_path: Path) -> None:
    """The last step of the run takes the 2 demonstrations that are left of 2 x 10."""
    seen: list[int] = []
    original = lm.batch_examples

    def note(examples: Any, *rest: Any) -> Any:
        seen.append(len(examples))
        return original(examples, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm, "batch_examples", note)
        run_stages(recipe(model), tmp_path)
    assert seen[1:] == [4, 4, 4, 4, 4]  # the first call is for the (empty) held-out side
    assert seen[0] == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm, "batch_examples", note)
        seen.clear()
        run_stages(recipe(model, batch_size=6), tmp_path / "other")
    assert seen[1:] == [6, 6, 6, 2]


def test_the_first_loss_is_that_of_the_model_it_starts_from(model: Path, tmp_path: Path) -> None:
    """Fidelity items 1, 4 and 32: one step, in microbatches of unequal size, over everything."""
    run_stages(recipe(model, epochs=1, batch_size=10, token_budget=30), tmp_path)
    encoder = Encoder(word_tokenizer([f"w{i}" for i in range(22)]))
    examples = [
        encoder.demonstration(
            Demonstration(turns=(Turn("user", d["prompt"]), Turn("assistant", d["completion"])))
        )
        for d in DEMONSTRATIONS
    ]
    start = load_causal(str(model), CPU, trained=False)
    expected = lm.mean_loss(start, lm.batch_examples(examples, 1000), CPU)
    (step,) = steps(tmp_path)
    assert step["loss/train"] == pytest.approx(expected, rel=1e-5)


def test_packed_and_padded_training_are_the_same(model: Path, tmp_path: Path) -> None:
    """Fidelity items 3 and 4, over a whole run; what differs is rounding alone."""
    run_stages(recipe(model, packing=True), tmp_path / "packed")
    run_stages(recipe(model), tmp_path / "padded")
    packed, padded = (weights(tmp_path / name / "sft") for name in ("packed", "padded"))
    for name in packed:
        torch.testing.assert_close(packed[name], padded[name], atol=1e-4, rtol=1e-3)


# --- dropout ------------------------------------------------------------------------------


def test_dropout_acts_while_training_and_not_while_measuring(model: Path, tmp_path: Path) -> None:
    kept = {"heldout": 0.3}
    run_stages(recipe(model, **kept), tmp_path / "off")
    run_stages(recipe(model, residual_dropout=0.5, **kept), tmp_path / "on")
    off, on = (metrics(tmp_path / name / "sft") for name in ("off", "on"))
    assert off[0]["loss/heldout"] == on[0]["loss/heldout"]
    assert off[1]["loss/train"] != on[1]["loss/train"]


def test_dropout_is_refused_where_the_family_has_none(tmp_path: Path) -> None:
    llama = save_causal(tmp_path / "lm", "llama")
    with pytest.raises(ConfigError, match="type 'llama' have no residual dropout"):
        run_stages(recipe(llama, residual_dropout=0.2), tmp_path / "out")


# --- what does not fit --------------------------------------------------------------------


def test_demonstrations_too_long_are_dropped_and_counted(model: Path, tmp_path: Path) -> None:
    """max_tokens counts the EOS: 2 + 20 + 1 = 23 tokens fit in 23 and 24 do not."""
    long = [{"prompt": "w1 w2", "completion": " w3" * length} for length in (20, 21, 40)]
    summary = run_stages(recipe(model, [*DEMONSTRATIONS, *long], max_tokens=23), tmp_path)["sft"]
    assert (summary["demonstrations"], summary["dropped_too_long"]) == (11, 2)


def test_the_context_of_the_model_limits_as_well(model: Path, tmp_path: Path) -> None:
    """The model takes 64 positions, whatever max_tokens allows."""
    long = [{"prompt": "w1", "completion": " w3" * length} for length in (62, 63)]
    raw = recipe(model, [*DEMONSTRATIONS, *long], max_tokens=2048)
    summary = run_stages(raw, tmp_path)["sft"]
    assert (summary["demonstrations"], summary["dropped_too_long"]) == (11, 1)


def test_packed_rows_wider_than_the_context_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_tokens=65 is the width of packed rows"):
        run_stages(recipe(model, packing=True, max_tokens=65), tmp_path)


def test_all_too_long_is_an_error(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all 10 demonstrations are longer than 2 tokens") as caught:
        run_stages(recipe(model, max_tokens=2), tmp_path)
    assert caught.value.exit_code == 3


def test_held_out_demonstrations_too_long_do_not_stop_a_run(model: Path, tmp_path: Path) -> None:
    """The prompt of the long ones is held out whole, by a share of it found by trying."""
    ctx = context(tmp_path / "probe", "sft", heldout=0.5)
    prompts = [f"w{i} w{i + 1}" for i in range(20)]
    sides = {
        p: ctx.is_heldout(Demonstration(turns=(Turn("user", p), Turn("assistant", " w1"))))
        for p in prompts
    }
    assert set(sides.values()) == {True, False}
    records = [{"prompt": p, "completion": " w1" * (60 if sides[p] else 2)} for p in prompts]
    summary = run_stages(recipe(model, records, heldout=0.5), tmp_path / "out")["sft"]
    assert summary["demonstrations"] == list(sides.values()).count(False)
    assert "heldout_loss_end" not in summary


# --- the epoch that is kept ---------------------------------------------------------------

PEAKS_AT = '''
"""An evaluator that likes one step best and keeps the weights it saw there."""
from fairlead import hookimpl
from fairlead.config import Config

SEEN = {}

class PeakConfig(Config):
    at: int

class Peak:
    Config = PeakConfig

    def __init__(self, config, context, tokenizer):
        self.config = config

    def evaluate(self, model, step):
        SEEN[step] = {n: p.detach().clone() for n, p in model.named_parameters()}
        return {"eval/peak": -abs(step - self.config.at)}

@hookimpl
def register_evaluators(register):
    register("peak", Peak)
'''


@pytest.fixture
def peak(tmp_path: Path) -> tuple[Plugins, dict[int, dict[str, torch.Tensor]]]:
    path = tmp_path / "peak_plugin.py"
    path.write_text(PEAKS_AT)
    plugins = load_plugins(extra=[str(path)])
    return plugins, plugins.manager.get_plugin("peak_plugin").SEEN


def test_the_best_epoch_is_kept(model: Path, tmp_path: Path, peak: Any) -> None:
    """10 demonstrations, batches of 5: epochs end at steps 2, 4, 6 and 8; the second is liked."""
    plugins, seen = peak
    evaluators = [{"name": "peak", "at": 4}]
    raw = recipe(model, epochs=4, batch_size=5, evaluators=evaluators, select_by="eval/peak")
    summary = run_stages(raw, tmp_path / "out", plugins=plugins)["sft"]
    assert sorted(seen) == [0, 2, 4, 6, 8]
    assert (summary["selected_step"], summary["selected_value"]) == (4, 0)
    saved = weights(tmp_path / "out" / "sft")
    assert all(torch.equal(saved[name], seen[4][name]) for name in saved)
    assert not torch.equal(saved["transformer.wte.weight"], seen[8]["transformer.wte.weight"])


def test_without_selection_the_last_epoch_is_kept(model: Path, tmp_path: Path, peak: Any) -> None:
    plugins, seen = peak
    raw = recipe(model, epochs=4, batch_size=5, evaluators=[{"name": "peak", "at": 4}])
    summary = run_stages(raw, tmp_path / "out", plugins=plugins)["sft"]
    assert "selected_step" not in summary
    saved = weights(tmp_path / "out" / "sft")
    assert all(torch.equal(saved[name], seen[8][name]) for name in saved)


def test_every_epoch_is_measured_where_batches_do_not_divide_it(
    model: Path, tmp_path: Path, peak: Any
) -> None:
    """5 demonstrations in batches of 4, 8 epochs in 10 steps.

    Epochs are over after 5, 10, ... 40 demonstrations, that is within steps
    ceil(5 e / 4) = 2, 3, 4, 5, 7, 8, 9, 10.
    """
    plugins, seen = peak
    raw = recipe(model, DEMONSTRATIONS[:5], epochs=8, evaluators=[{"name": "peak", "at": 1}])
    run_stages(raw, tmp_path / "out", plugins=plugins)
    assert sorted(seen) == [0, 2, 3, 4, 5, 7, 8, 9, 10]


def test_selection_by_what_is_not_measured_is_an_error(
    model: Path, tmp_path: Path, peak: Any
) -> None:
    plugins, _ = peak
    raw = recipe(model, evaluators=[{"name": "peak", "at": 4}], select_by="eval/reward")
    with pytest.raises(ConfigError, match=r"no evaluator measures that; measured here: eval/peak"):
        run_stages(raw, tmp_path / "out", plugins=plugins)


# --- the pretraining mix ------------------------------------------------------------------


def auxiliary(root: Path, **settings: Any) -> Any:
    """The auxiliary loss by itself."""
    ctx = context(root)
    stage = recipe(root, auxiliary=[{**PTX, **settings}])
    config, _ = configure(stage, plugins=ctx.plugins)
    encoder = word_tokenizer([f"w{i}" for i in range(22)])
    return config.stages["sft"].config.auxiliary[0].build(ctx, encoder)


@pytest.mark.parametrize("ratio", [0.1, 0.3, 1.0, 2.5])
def test_pretraining_examples_add_up_to_the_floor_of_the_ratio(
    ratio: float, tmp_path: Path
) -> None:
    """After n steps of 4 demonstrations: floor(4 n ratio) blocks, no step's fraction lost."""
    loss = auxiliary(tmp_path, ratio=ratio)
    tenths = round(ratio * 10)
    taken = 0
    for step in range(1, 101):
        taken += loss._due(examples=4, tokens=99)
        assert taken == 4 * step * tenths // 10


def test_the_ratio_can_be_of_tokens(tmp_path: Path) -> None:
    """0.5 of 40 target tokens is 20, in blocks of 8: 2.5 a step."""
    loss = auxiliary(tmp_path, ratio=0.5, ratio_of="tokens")
    assert [loss._due(examples=4, tokens=40) for _ in range(4)] == [2, 3, 2, 3]


def test_a_tenth_of_the_examples_is_pretraining_text(model: Path, tmp_path: Path) -> None:
    """Steps of 4, 4, 4, 4, 4 demonstrations owe 0.4 each: blocks at the 3rd and 5th step."""
    raw = recipe(model, auxiliary=[{**PTX, "ratio": 0.1, "coefficient": 1.0}])
    run_stages(raw, tmp_path)
    assert [line["step"] for line in steps(tmp_path) if "loss/ptx" in line] == [3, 5]


@pytest.mark.parametrize(
    ("normalise", "divisor"), [("token_mean", 14), ("sequence_sum", 2), ("as_main", 20)]
)
def test_what_the_pretraining_gradient_is_divided_by(
    normalise: str, divisor: int, model: Path, tmp_path: Path
) -> None:
    """Two blocks of 8 have 7 targets each, 14; the main batch has 20 target tokens.

    gradient = coefficient * (gradient of the sum of -log p) / divisor, added to what is there.
    """
    loss = auxiliary(tmp_path, ratio=0.5, coefficient=3.0, normalise=normalise, token_budget=8)
    policy = load_causal(str(model), CPU, trained=True)
    blocks, _ = cut_blocks(
        [list(map(int, t["text"].replace("w", "").split())) for t in TEXT], EOS, 8
    )
    chosen = blocks[loss.feed.take(2)]
    loss.feed.cursor = 0
    total = lm.backward(policy, lm.block_batches(chosen, None, 99), 1, CPU, what="", step=1)
    summed = {name: p.grad.clone() for name, p in policy.named_parameters()}  # type: ignore[union-attr]
    for parameter in policy.parameters():
        parameter.grad = torch.ones_like(parameter)  # as if the main loss had left it
    assert loss.backward(policy, examples=4, tokens=20) == {
        "loss/ptx": (pytest.approx(total, rel=1e-5), 14)
    }
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None
        expected = 1 + 3.0 * summed[name] / divisor
        torch.testing.assert_close(parameter.grad, expected, atol=1e-5, rtol=1e-5)


def test_as_main_with_coefficient_one_is_plain_mixing(model: Path, tmp_path: Path) -> None:
    """Fidelity item 4: (sum over demonstrations + sum over text) / target tokens of the main."""
    policy = load_causal(str(model), CPU, trained=True)
    loss = auxiliary(tmp_path, ratio=1.0, coefficient=1.0, normalise="as_main")
    blocks = loss.blocks[loss.feed.take(2)]
    loss.feed.cursor = 0
    encoder = Encoder(word_tokenizer([f"w{i}" for i in range(22)]))
    turns = (Turn("user", "w1 w2"), Turn("assistant", "w3 w4 w5"))
    main = lm.batch_examples([encoder.demonstration(Demonstration(turns=turns))] * 2, 99)
    lm.backward(policy, main, 8, CPU, what="", step=1)
    loss.backward(policy, examples=2, tokens=8)
    ours = [p.grad.clone() for p in policy.parameters()]  # type: ignore[union-attr]
    policy.zero_grad()
    both = [*main, *lm.block_batches(blocks, None, 99)]
    lm.backward(policy, both, 8, CPU, what="", step=1)
    for mine, parameter in zip(ours, policy.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(mine, parameter.grad, atol=1e-6, rtol=1e-5)


def test_pretraining_text_leaves_out_what_is_held_out(tmp_path: Path) -> None:
    """One rule for all stages: no text of the mix is among what is tested on."""
    all_text, kept = (
        auxiliary_with(tmp_path / str(share), share).blocks.numel() for share in (0.0, 0.5)
    )
    assert 0 < kept < all_text


def auxiliary_with(root: Path, heldout: float) -> Any:
    ctx = context(root, heldout=heldout)
    config, _ = configure(recipe(root, auxiliary=[PTX]), plugins=ctx.plugins)
    tokenizer = word_tokenizer([f"w{i}" for i in range(22)])
    return config.stages["sft"].config.auxiliary[0].build(ctx, tokenizer)

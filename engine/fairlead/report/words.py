"""The results in plain words, one sentence for each stage that has one.

What a sentence says is chosen by what the summary holds, not by the stage's type, so a
plugin's stage that reports the same numbers gets the same words. A difference that chance
alone could have made is called that.
"""

from __future__ import annotations

import math

from fairlead.report.load import Run, StageRecord
from fairlead.report.panels import mean_scores
from fairlead.report.text import duration, figure, percent, with_error

CLEAR = 2.0
"""Standard errors from which on a change is said to be one."""


def run_sentences(run: Run) -> list[str]:
    """Return what the run found; first how it ended, when it did not finish."""
    sentences = [_ending(run)] if run.status != "finished" else []
    for stage in run.stages:
        sentences += stage_sentences(stage)
    if not sentences:
        sentences.append("The run finished; none of its stages reported a result.")
    return sentences


def _ending(run: Run) -> str:
    ended = [s for s in run.stages if s.status in ("running", "failed", "stopped", "unknown")]
    done = sum(stage.status == "finished" for stage in run.stages)
    what = {
        "running": "This run is still going on, or was killed",
        "failed": "This run failed",
        "stopped": "This run was stopped",
    }.get(run.status, "How this run ended is not known")
    where = ""
    if ended:
        steps = f" after {ended[0].steps:,} steps" if ended[0].steps else ""
        where = f" in stage {ended[0].name}{steps}"
    return f"{what}{where}: {done} of {len(run.stages)} stages are finished."


def stage_sentences(stage: StageRecord) -> list[str]:
    """Return what one stage found, in no or a few sentences."""
    found = [_accuracy(stage), _reward(stage)]
    if found == ["", ""]:
        found = [_heldout_loss(stage)]
    found.append(_comparison(stage))
    return [sentence for sentence in found if sentence]


def _heldout_loss(stage: StageRecord) -> str:
    start, end = stage.number("heldout_loss_start"), stage.number("heldout_loss_end")
    if start is None or end is None:
        return ""
    kind = {"sft": "SFT", "pretrain": "pretraining"}.get(stage.component, "")
    what = f"Held-out {kind} loss".replace("  ", " ")
    if stage.name != stage.component:
        what += f" ({stage.name})"
    verb = "fell" if end < start else "rose" if end > start else "stayed"
    span = f"from {figure(start, 3)} to {figure(end, 3)}" if end != start else f"{figure(end, 3)}"
    return f"{what} {verb} {'at ' if end == start else ''}{span}."


def _accuracy(stage: StageRecord) -> str:
    accuracy = stage.number("accuracy")
    if accuracy is None:
        return ""
    low, high = stage.number("accuracy_low"), stage.number("accuracy_high")
    facts = []
    if low is not None and high is not None:
        facts.append(f"95\u202f% interval {100 * low:.0f}\u2013{percent(high)}")
    pairs = stage.number("pairs")
    if pairs is not None:
        facts.append(f"{pairs:,.0f} held-out pairs")
    sentence = f"Reward model {stage.name} is right on {percent(accuracy)} of pairs"
    sentence += f" ({', '.join(facts)})" if facts else ""
    if low is not None and high is not None and low <= 0.5 <= high:
        sentence += ", which is not told apart from guessing"
    return sentence + "."


def _reward(stage: StageRecord) -> str:
    gain, error = stage.number("reward_gain"), stage.number("reward_gain_se")
    start, end = stage.number("reward_start"), stage.number("reward_end")
    if gain is None and start is not None and end is not None:
        gain = end - start
    if gain is None:
        return ""
    verb = "rose" if gain >= 0 else "fell"
    sentence = (
        f"{stage.name}: reward on the evaluation prompts {verb} by {with_error(abs(gain), error)}"
    )
    if error is not None and error > 0:
        errors = float(f"{abs(gain) / error:.2g}")
        sentence += f" ({figure(errors)} standard error{'s' * (errors != 1)}"
        sentence += ")" if errors >= CLEAR else ": no more than chance may do)"
    if start is not None and end is not None:
        sentence += f", from {figure(start, 3)} to {figure(end, 3)}"
    kl = stage.number("kl_end")
    if kl is not None:
        sentence += f"; KL {figure(kl, 2)} nats a sequence"
    weights = stage.summary.get("weights")
    if weights in ("raw", "ema"):
        sentence += f"; {'raw' if weights == 'raw' else 'averaged (EMA)'} weights"
    return sentence + "."


def _comparison(stage: StageRecord) -> str:
    scores = mean_scores(stage)
    if len(scores) < 2:
        return ""
    prompts = max(count for _, _, count in scores)
    listed = ", ".join(f"{name} {figure(mean, 3)}" for name, mean, _ in scores)
    return f"Mean score over {prompts:,} sampled prompts: {listed}."


def took(run: Run) -> str:
    """Return the time the stages took together."""
    known = [stage.seconds for stage in run.stages if stage.seconds is not None]
    return duration(math.fsum(known)) if known else ""

"""The evaluate stage: every evaluator on every model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Self

from pydantic import Field, model_validator
from torch import nn

from fairlead.checkpoint import write_atomically
from fairlead.components import Evaluator, Measurement
from fairlead.config import Config, EvaluatorSpec, Spec
from fairlead.errors import Stopped
from fairlead.models import load_causal
from fairlead.stages import Preview, StageContext
from fairlead.tokenizers import check_same_vocabulary

RESULTS = "results.json"
DATA = "data"
"""What stands in the place of a model where an evaluator measures data."""

Results = dict[str, dict[str, Measurement]]
"""By evaluator's label and model's name."""


class EvaluateConfig(Config):
    """Settings of the evaluate stage.

    Attributes:
        models: Name to show, to ``stage:NAME``, directory or hub name; the first one's
            tokenizer encodes the prompts for all. May be empty where no evaluator needs a model.
        evaluators: What to measure; each needs a label of its own.
    """

    models: dict[str, str] = Field(default_factory=dict)
    evaluators: list[EvaluatorSpec] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        labels = [label_of(spec) for spec in self.evaluators]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(
                f"evaluators: {labels.count(twice[0])} of them are labelled {twice[0]!r}; give "
                "each a label of its own"
            )
        needing = [label_of(spec) for spec in self.evaluators if needs_model(spec)]
        if needing and not self.models:
            raise ValueError(f"models: none is given, and {needing[0]!r} measures one; give one")
        return self


def label_of(spec: Spec) -> str:
    """Return what an evaluator's metrics are called."""
    return str(getattr(spec.config, "label", spec.name))


def needs_model(spec: Spec) -> bool:
    """Whether an evaluator measures models, and not data."""
    return bool(getattr(spec.factory, "needs_model", True))


class EvaluateStage:
    """Writes ``results.json``: what every evaluator found of every model, item by item.

    The file is written anew after each measurement: hours of them are not lost to an error in the
    last one. A stage that did not finish measures all again when it is resumed, as its evaluators
    and models may have changed since.

    An evaluator is made once and asks all models with the same draws, so that their outcomes can
    be paired: the same places in two lists are the same items.
    """

    Config = EvaluateConfig

    def __init__(self, config: EvaluateConfig) -> None:
        self.config = config

    def run(self, context: StageContext) -> dict[str, Any]:
        """Measure; returns each evaluator's main metric by model, as ``METRIC/MODEL``.

        Raises:
            ConfigError: When models do not share a vocabulary, or an evaluator cannot be made.
            Stopped: Between two measurements, when a signal has asked for a stop.
        """
        # 1. Evaluators, and with them their data.
        tokenizer = self._tokenizer(context)
        made: dict[str, Evaluator] = {
            label_of(spec): spec.build(context, tokenizer) for spec in self.config.evaluators
        }
        # 2. Measure the data, then each model, loaded once; write down what is found.
        found = self._measure(context, made)
        _warn_of_other_items(context, found)
        # 3. Return the main metrics.
        main = {
            f"{name}/{model}": value
            for label, by_model in found.items()
            for model, one in by_model.items()
            for name, value in main_metric(label, one).items()
        }
        return {"steps": sum(map(len, found.values())), **main}

    def preview(self, context: StageContext) -> Preview:
        """Check vocabularies, and read the evaluators' data; no weights are loaded."""
        cfg = self.config
        tokenizer = self._tokenizer(context)
        model = context.model_config(next(iter(cfg.models.values()))) if cfg.models else None
        facts: dict[str, Any] = {"models": ", ".join(cfg.models) or "none"}
        for spec in cfg.evaluators:
            # Making one may load a reward's weights, which a dry run has not.
            preview = getattr(spec.factory, "preview", None)
            facts[label_of(spec)] = (
                preview(spec.config, context, tokenizer, model) if preview else spec.name
            )
        return Preview(facts=facts)

    def _tokenizer(self, context: StageContext) -> Any:
        """Return the first model's tokenizer, or None; the others' must agree."""
        references = self.config.models
        tokenizers = {name: context.tokenizer(where) for name, where in references.items()}
        first = next(iter(tokenizers.values()), None)
        for name, tokenizer in tokenizers.items():
            check_same_vocabulary(first, tokenizer, f"model {name!r}")
        return first

    def _measure(self, context: StageContext, made: Mapping[str, Evaluator]) -> Results:
        cfg = self.config
        found: Results = {label: {} for label in made}
        models = [label_of(spec) for spec in cfg.evaluators if needs_model(spec)]
        data = [label for label in made if label not in models]
        total = len(data) + len(models) * len(cfg.models)
        with context.display.stage(context.name, "measurement", total) as progress:

            def note(label: str, name: str, model: nn.Module | None) -> None:
                found[label][name] = one = measure(made[label], model)
                write_results(context, cfg.evaluators, found)
                done = sum(map(len, found.values()))
                progress.advance(done, one.metrics)
                if context.stop.name and done < total:
                    raise Stopped(
                        f"stopped by {context.stop.name} after {done} of {total} measurements of "
                        f"stage {context.name!r}. They are in its {RESULTS}; --resume measures "
                        "all anew."
                    )

            for label in data:
                note(label, DATA, None)
            for name, reference in cfg.models.items() if models else ():
                self._measure_model(context, name, reference, models, note)
        return found

    def _measure_model(
        self,
        context: StageContext,
        name: str,
        reference: str,
        labels: list[str],
        note: Callable[[str, str, nn.Module | None], None],
    ) -> None:
        """Measure one model; it is let go at the end, before the next is loaded."""
        model = load_causal(
            context.locate(reference),
            context.strategy,
            trained=False,
            trust_remote_code=context.config.trust_remote_code,
        )
        for label in labels:
            note(label, name, model)


def measure(evaluator: Any, model: nn.Module | None) -> Measurement:
    """Let an evaluator measure; one without `measure` has metrics alone."""
    if hasattr(evaluator, "measure"):
        measured: Measurement = evaluator.measure(model)
        return measured
    return Measurement(evaluator.evaluate(model, 0))


def main_metric(label: str, found: Measurement) -> dict[str, float]:
    """Return the metric LABEL by its name, else the first one; empty where there is no number."""
    known = {
        name.removeprefix("eval/"): value
        for name, value in found.metrics.items()
        if math.isfinite(value)
    }
    name = label if label in known else next(iter(known), label)
    return {name: known[name]} if known else {}


def write_results(context: StageContext, specs: list[Spec], found: Results) -> None:
    """Write ``results.json``, so far as it goes; a number that is not finite becomes null."""
    evaluators = {
        label_of(spec): {
            "component": spec.name,
            "models": {name: _entry(one) for name, one in found[label_of(spec)].items()},
        }
        for spec in specs
        if found[label_of(spec)]
    }
    text = json.dumps({"evaluators": evaluators}, ensure_ascii=False, allow_nan=False)
    write_atomically(context.directory / RESULTS, text + "\n")


def _warn_of_other_items(context: StageContext, found: Results) -> None:
    """Say so where two models were not asked the same, and so cannot be paired."""
    for label, by_model in found.items():
        asked = {(tuple(one.clusters), len(one.outcomes)) for one in by_model.values()}
        if len(asked) > 1:
            context.display.warn(
                f"{context.name}: {label} measured {', '.join(by_model)} on different items, as "
                "their contexts differ in length: they cannot be compared item by item. Give "
                "shorter prompts, or lower max_new_tokens."
            )


def _entry(found: Measurement) -> dict[str, Any]:
    metrics = {name.removeprefix("eval/"): value for name, value in found.metrics.items()}
    return {
        "metrics": {name: _finite(value) for name, value in metrics.items()},
        "outcomes": [_finite(value) for value in found.outcomes],
        "clusters": list(found.clusters),
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

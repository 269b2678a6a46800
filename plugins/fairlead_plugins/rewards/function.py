"""A Python function as a reward."""

from __future__ import annotations

from typing import Any

import torch

from fairlead.components import RewardBatch, Scores
from fairlead.config import Config
from fairlead.functions import call_function, load_function
from fairlead.stages import StageContext


class FunctionConfig(Config):
    """Settings of `FunctionReward`.

    Attributes:
        function: ``path/to/file.py:function`` or ``package.module:function``. It is called
            as ``function(prompts, responses, metadata)`` with a list of texts each and a
            list of the records' metadata, and returns one float a response.
    """

    function: str


class FunctionReward:
    """Scores decoded text with a function of the user's.

    Raises:
        ConfigError: When the function cannot be found or imported.
    """

    Config = FunctionConfig

    def __init__(self, config: FunctionConfig, context: StageContext, tokenizer: Any) -> None:
        self.name = config.function
        self.function = load_function(config.function)

    @classmethod
    def preview(cls, config: FunctionConfig, context: StageContext) -> None:
        """Look for the function."""
        load_function(config.function)

    def score(self, batch: RewardBatch) -> Scores:
        """Return the function's numbers.

        Raises:
            RewardError: When it raises, returns another number of values, or a value that
                is not a finite number; names the prompt.
        """
        values = call_function(
            self.function,
            f"the reward function {self.name}",
            [prompt.prompt_text for prompt in batch.prompts],
            [list(batch.responses)],
            [dict(prompt.metadata) for prompt in batch.prompts],
        )
        return Scores(torch.tensor(values))

"""Where models run."""

from __future__ import annotations

import logging

import pytest
import torch

from fairlead import strategy
from fairlead.strategy import SingleDevice


@pytest.mark.parametrize(
    ("precision", "instructions", "said"),
    [("bfloat16", False, 1), ("bfloat16", True, 0), ("float32", False, 0)],
)
def test_bfloat16_is_warned_of_once_where_a_cpu_has_no_instructions_for_it(
    precision: str,
    instructions: bool,
    said: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: instructions)
    strategy._warn_of_slow_bfloat16.cache_clear()
    with caplog.at_level(logging.WARNING, "fairlead"):
        for _ in range(2):
            SingleDevice("cpu", precision)
    strategy._warn_of_slow_bfloat16.cache_clear()
    lines = [one.getMessage() for one in caplog.records]
    assert len(lines) == said
    assert all("Use precision=float32" in line for line in lines)

import logging

import pytest
import torch
from generating import as_it_is, respond, rows
from support import FAMILIES, save_causal

from fairlead.generation import graphs, recorded
from fairlead.models import load_causal
from fairlead.strategy import SingleDevice

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.fixture
def captured(monkeypatch):
    """The rows of each graph that is captured."""
    found = []

    class Noted(graphs.CudaGraphs):
        def __call__(self, *given):
            captured = super().__call__(*given)
            found.append(len(given[0]))
            return captured

    monkeypatch.setattr("fairlead.generation.recorded.CudaGraphs", Noted)
    return found


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_graphs_generate_what_the_model_does(tmp_path, captured, family, precision):
    strategy = SingleDevice("cuda", precision)
    directory = save_causal(tmp_path, family, initializer_range=0.3)
    model = load_causal(str(directory), strategy, trained=True)
    with strategy.autocast():
        assert rows(respond(model)) == as_it_is(model)
    assert captured == [8]


def test_rows_that_end_leave_graphs_of_fewer_rows(tmp_path, captured):
    strategy = SingleDevice("cuda")
    model = load_causal(str(save_causal(tmp_path, initializer_range=0.3)), strategy, trained=True)
    ended = {"stop_token_ids": tuple(range(4)), "max_new_tokens": 30}
    assert rows(respond(model, slots=5, **ended)) == as_it_is(model, slots=5, **ended)
    assert len(captured) > 1


def test_weights_may_change_between_batches(tmp_path, captured):
    strategy = SingleDevice("cuda")
    model = load_causal(str(save_causal(tmp_path, initializer_range=0.3)), strategy, trained=True)
    before = rows(respond(model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    after = rows(respond(model))
    assert after != before
    assert after == as_it_is(model)


def test_a_step_that_waits_for_the_device_is_run_as_it_is(tmp_path, captured, caplog, monkeypatch):
    strategy = SingleDevice("cuda")
    model = load_causal(str(save_causal(tmp_path, initializer_range=0.3)), strategy, trained=True)
    expected = as_it_is(model)
    norm = type(model.transformer.ln_f)
    plain = norm.forward

    def waiting(self, hidden):
        hidden.sum().item()
        return plain(self, hidden)

    monkeypatch.setattr(norm, "forward", waiting)
    stream = torch.cuda.current_stream()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert rows(respond(model)) == expected
    assert captured == []
    (line,) = (one.getMessage() for one in caplog.records)
    assert line.startswith(
        "decoding GPT2LMHeadModel without capturing its steps, which is slower: "
    )
    # What a failed capture must not leave behind.
    assert torch.cuda.current_stream() == stream
    assert torch.nn.functional.dropout(torch.ones(1000, device="cuda")).isfinite().all()
    recorded._NO_GRAPHS.clear()
    monkeypatch.setattr(norm, "forward", plain)
    assert rows(respond(model)) == expected
    assert captured == [8]

import math

import pytest
import torch
from cases import ODD_ROWS, normal, prefix_mask
from tolerances import assert_within_error_rule

from fairlead_kernels import gae, native_status
from fairlead_kernels.gae import _reference


def missing() -> str:
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    status = native_status()
    return "" if "cuda" in status.parts else f"no native CUDA kernels: {status.reason}"


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]


def case(rows, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = prefix_mask(torch.randint(0, width + 1, (rows,), generator=generator), width)
    return normal(rows, width, seed=seed + 1), normal(rows, width, seed=seed + 2), mask


@pytest.mark.parametrize("rows", ODD_ROWS)
@pytest.mark.parametrize("width", [1, 31, 32, 33, 300])
@pytest.mark.parametrize("gamma", [1.0, 0.99])
def test_error_rule_at_ragged_lengths(rows, width, gamma):
    rewards, values, mask = case(rows, width)
    plain = _reference(rewards, values, mask, gamma, 0.95)
    exact = _reference(rewards.double(), values.double(), mask, gamma, 0.95)
    ours = gae(*(x.cuda() for x in (rewards, values, mask)), gamma, impl="cuda")
    for a, b, c in zip(ours, plain, exact, strict=True):
        assert_within_error_rule(a.cpu(), b, c)


def test_three_tokens_by_hand():
    """Fidelity item 28: no KL, score 2, V = 1 everywhere, lambda 0.95."""
    rewards = torch.tensor([[0.0, 0.0, 2.0, 0.0]]).cuda()
    advantages, _ = gae(rewards, torch.ones_like(rewards), prefix_mask([3], 4).cuda(), impl="cuda")
    exact = torch.tensor([[0.9025, 0.95, 1.0, 0.0]], dtype=torch.float64)
    assert_within_error_rule(advantages.cpu(), exact.float(), exact)


def test_nan_past_the_response_has_no_influence():
    """Fidelity item 20."""
    rewards, values, mask = (x.cuda() for x in case(65, 70))
    clean = gae(rewards, values, mask, impl="cuda")
    dirty = gae(
        rewards.masked_fill(~mask, math.nan), values.masked_fill(~mask, math.nan), mask, impl="cuda"
    )
    for a, b in zip(clean, dirty, strict=True):
        assert torch.equal(a, b)
        assert not bool(a[~mask].any())


def test_auto_takes_it_and_it_runs_in_the_current_stream():
    rewards, values, mask = (x.cuda() for x in case(33, 65))
    expected = gae(rewards, values, mask, impl="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        late = rewards * 1.0
        results = gae(late, values, mask)
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_empty_batch(shape):
    zeros = torch.zeros(shape, device="cuda")
    advantages, returns = gae(zeros, zeros, zeros.bool(), impl="cuda")
    assert advantages.shape == returns.shape == shape


def test_the_torch_operation_passes_opcheck():
    rewards, values, mask = (x.cuda() for x in case(17, 33))
    torch.library.opcheck(
        torch.ops.fairlead_kernels.gae.default, (rewards, values, mask, 1.0, 0.95)
    )

import math

import pytest
import torch
from cases import normal, ragged
from hypothesis import given, settings
from tolerances import assert_within_error_rule

from fairlead_kernels import whiten
from fairlead_kernels.whiten import _reference


def test_hand_worked_values():
    """Fidelity item 19: biased variance, eps inside the root, masked positions zero.

    1, 2, 3 (and a masked 9): mean 2, biased variance 2/3, so -+ sqrt(3/2) = 1.2247449 at the ends.
    The unbiased variance, 1, would give -+ 1.
    """
    x = torch.tensor([[1.0, 2.0], [3.0, 9.0]])
    mask = torch.tensor([[True, True], [True, False]])
    end = 1 / math.sqrt(2 / 3 + 1e-8)
    exact = torch.tensor([[-end, 0.0], [end, 0.0]], dtype=torch.float64)
    assert_within_error_rule(whiten(x, mask), exact.float(), exact)


def test_the_mean_is_kept_when_asked():
    """Fidelity item 18: reward whitening divides by the deviation and keeps the mean."""
    x = torch.tensor([1.0, 2.0, 3.0, 9.0])
    mask = torch.tensor([True, True, True, False])
    end = 1 / math.sqrt(2 / 3 + 1e-8)
    exact = torch.tensor([2 - end, 2.0, 2 + end, 0.0], dtype=torch.float64)
    assert_within_error_rule(whiten(x, mask, shift_mean=False), exact.float(), exact)


@pytest.mark.parametrize("shift_mean", [True, False])
@settings(max_examples=60, deadline=None)
@given(case=ragged())
def test_masked_positions_have_no_influence(shift_mean, case):
    """Fidelity item 19 and Fidelity item 20: zero again afterwards, NaN there never read."""
    mask, seed = case
    x = normal(*mask.shape, seed=seed)
    clean = whiten(x.masked_fill(~mask, 0.0), mask, shift_mean)
    dirty = whiten(x.masked_fill(~mask, math.nan), mask, shift_mean)
    assert torch.equal(clean, dirty)
    assert not bool(clean[~mask].any())


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_error_rule(offset):
    x = normal(257, 127) * 3 + offset
    mask = normal(257, 127, seed=1) > 0
    exact = _reference(x.double(), mask, True, 1e-8)
    kept = x[mask]
    plain = torch.zeros_like(x)
    plain[mask] = (kept - kept.mean()) * torch.rsqrt(kept.var(unbiased=False) + 1e-8)
    assert_within_error_rule(whiten(x, mask), plain, exact)


def test_empty_mask_gives_zeros_and_a_constant_gives_its_mean():
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    for shift_mean in (True, False):
        result = whiten(torch.full((2, 2), math.nan), nothing, shift_mean)
        assert torch.equal(result, torch.zeros(2, 2))
    constant = torch.full((2, 2), 4.0)
    assert torch.equal(whiten(constant, ~nothing), torch.zeros(2, 2))
    assert torch.equal(whiten(constant, ~nothing, shift_mean=False), constant)


def test_wrong_arguments_are_errors():
    with pytest.raises(ValueError, match="mask"):
        whiten(torch.zeros(2), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="boolean"):
        whiten(torch.zeros(2), torch.ones(2))
    with pytest.raises(ValueError, match="eps"):
        whiten(torch.zeros(2), torch.ones(2, dtype=torch.bool), eps=-1.0)

import math

import pytest
import torch
from cases import ODD_ROWS, normal
from sampling import LARGEST_U, assert_draws_agree, probabilities, u_of
from scipy import stats
from tolerances import CHI_SQUARED_LEVEL, assert_within_error_rule

from fairlead_kernels import list_implementations, philox_uniform, sample
from fairlead_kernels.sample import CHUNK

HOW = [(1.0, 0, 1.0), (0.7, 50, 1.0), (1.3, 0, 0.9), (1.0, 40, 0.5), (0.0, 0, 1.0)]


def missing(impl: str) -> str:
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    rows = [
        r for r in list_implementations() if (r.op, r.impl, r.device) == ("sample", impl, "cuda")
    ]
    return rows[0].reason


pytestmark = pytest.mark.gpu
IMPLS = [
    pytest.param(impl, marks=pytest.mark.skipif(bool(missing(impl)), reason=missing(impl) or "-"))
    for impl in ("cuda", "triton")
]
every_impl = pytest.mark.parametrize("impl", IMPLS)


def keys(count):
    index = torch.arange(count)
    return philox_uniform(11, 3, index // 50, index % 50, impl="reference")


def on_device(impl, logits, u, *how):
    return [x.cpu() for x in sample(logits.cuda(), u.cuda(), *how, impl=impl)]


@every_impl
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("vocabulary", [10, 1000, 32003])
def test_draws_what_the_reference_draws_on_2000_keys(impl, how, vocabulary):
    logits, u = normal(2000, vocabulary) * 2, keys(2000)
    ours = on_device(impl, logits, u, *how)
    reference = sample(logits, u, *how, impl="reference")
    if how[0] == 0:
        assert torch.equal(ours[0], reference[0])
    else:
        assert_draws_agree(ours[0], reference[0], logits, u, *how)


@every_impl
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocabulary", [1, 2, 33, CHUNK + 1])
def test_edge_cases_agree_with_the_reference(impl, dtype, vocabulary):
    logits = (normal(12, vocabulary) * 2).to(dtype)
    logits[0, -1] = math.nan
    logits[1] = -math.inf
    logits[2, 0] = math.inf
    logits[3] = 1.5
    logits[4, 1:] = -math.inf
    logits[5, 0] = -0.0
    logits[5, -1] = 0.0
    for u in (u_of(*[0.0] * 12), u_of(*[LARGEST_U] * 12), keys(12)):
        for how in (*HOW, (1.0, 1, 1.0), (1.0, 10**9, 1e-300)):
            ours = on_device(impl, logits, u, *how)
            reference = sample(logits, u, *how, impl="reference")
            assert torch.equal(ours[0], reference[0])
            for a, b in zip(ours[1:], reference[1:], strict=True):
                torch.testing.assert_close(a, b, equal_nan=True)
                assert not bool((a[b.isfinite()] > math.log(vocabulary)).any())
            assert not bool((ours[1] > 0).any())


@every_impl
@pytest.mark.parametrize("how", [(1.0, 0, 1.0), (0.8, 7, 1.0), (1.0, 0, 0.8), (1.2, 6, 0.7)])
def test_a_million_draws_follow_the_distribution(impl, how):
    """Cut-off tokens are never drawn: their expected count is 0."""
    logits = torch.full((1, CHUNK + 4), -math.inf)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 4.0, 2.0, 0.0, 7.0, 9.0, 2.0])
    logits[0, CHUNK - 6 :] = weights.log()
    u = keys(1_000_000).cuda()
    token, _, _ = sample(logits.cuda().expand(len(u), -1), u, *how, impl=impl)
    counts = torch.bincount(token, minlength=logits.shape[1]).cpu().numpy()
    expected = probabilities(logits[0], *how) * len(u)
    assert not counts[expected == 0].any()
    possible = expected > 0
    assert stats.chisquare(counts[possible], expected[possible]).pvalue > CHI_SQUARED_LEVEL


@every_impl
@pytest.mark.parametrize("rows", ODD_ROWS)
def test_logprob_and_entropy_by_the_error_rule(impl, rows):
    logits, u = normal(rows, 4001) * 3, keys(rows)
    for how in HOW[:4]:
        token, logprob, entropy = on_device(impl, logits, u, *how)
        p = torch.stack([torch.from_numpy(probabilities(row, *how)) for row in logits])
        plain = torch.log_softmax(logits.masked_fill(p == 0, -math.inf) / how[0], dim=1)
        at = token.unsqueeze(1)
        assert_within_error_rule(
            logprob, plain.gather(1, at).squeeze(1), p.log().gather(1, at).squeeze(1)
        )
        assert_within_error_rule(
            entropy,
            torch.special.entr(plain.exp()).sum(dim=1),
            torch.special.entr(p).sum(dim=1),
        )


@every_impl
@pytest.mark.parametrize("how", [(1.0, 0, 1.0), (0.7, 50, 0.8)])
def test_a_draw_does_not_depend_on_its_batch_and_repeats_bit_for_bit(impl, how):
    """Fidelity item 14."""
    logits, u = normal(40, 5000).cuda(), keys(40).cuda()
    whole = sample(logits, u, *how, impl=impl)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:13].cuda()
    part = sample(logits[order], u[order], *how, impl=impl)
    assert all(torch.equal(a[order], b) for a, b in zip(whole, part, strict=True))
    again = sample(logits, u, *how, impl=impl)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


@every_impl
def test_runs_in_the_current_stream_and_takes_strided_rows_and_empty_batches(impl):
    wide = normal(33, 300).cuda()
    u = keys(33).cuda()
    expected = sample(wide[:, 7:207].contiguous(), u, 1.0, 30, 0.9, impl=impl)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        late = wide * 1.0
        results = sample(late[:, 7:207], u, 1.0, 30, 0.9, impl=impl)
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
    assert sample(wide[:0], u[:0], impl=impl)[0].shape == (0,)


@every_impl
def test_philox_has_the_bits_of_the_reference(impl):
    index = torch.arange(1000)
    for seed, iteration in ((0, 0), (1, 1), (2**64 - 1, 2**32 - 1)):
        args = (seed, iteration, index << 33, index << 20)
        ours = philox_uniform(*args[:2], args[2].cuda(), args[3].cuda(), impl=impl)
        assert torch.equal(ours.cpu(), philox_uniform(*args, impl="reference"))


@pytest.mark.skipif(bool(missing("cuda")), reason=missing("cuda") or "-")
def test_the_torch_operations_pass_opcheck():
    torch.library.opcheck(
        torch.ops.fairlead_kernels.sample.default,
        (normal(5, 1100).cuda(), keys(5).cuda(), 1.0, 3, 0.9),
    )
    index = torch.arange(5).cuda()
    torch.library.opcheck(torch.ops.fairlead_kernels.philox_uniform.default, (-5, 3, index, index))

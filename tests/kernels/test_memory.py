"""Memory that is kept for the next large result."""

import pytest
import torch

from fairlead_kernels import token_logprobs
from fairlead_kernels.bench.memory import peak_bytes
from fairlead_kernels.native import loaded
from fairlead_kernels.native.memory import drop_spare, empty

CPU = torch.device("cpu")
LARGE = (3, 1 << 20)  # 12 MiB of float32

pytestmark = pytest.mark.skipif(
    not hasattr(loaded(), "Pages"), reason="the native module is not there, or does not keep memory"
)


@pytest.fixture(autouse=True)
def nothing_kept():
    drop_spare()
    yield
    drop_spare()


def large(dtype=torch.float32, shape=LARGE):
    return empty(shape, dtype, CPU)


def test_a_large_tensor_is_an_ordinary_one():
    x = large()
    assert (x.shape, x.dtype, x.device) == (LARGE, torch.float32, CPU)
    assert x.is_contiguous()
    assert x.data_ptr() % (2 << 20) == 0
    x.fill_(2.0)
    assert x.sum() == 2.0 * x.numel()
    assert torch.equal(x.clone(), x)


def test_what_is_freed_is_there_for_the_next():
    x = large()
    x.fill_(1.0)
    address = x.data_ptr()
    del x
    y = large(torch.bfloat16, (5, 1 << 20))  # 10 MiB of the 12
    assert y.data_ptr() == address
    y.fill_(3.0)
    assert bool((y == 3.0).all())


def test_what_is_in_use_is_not():
    x = large()
    row = x[1]
    row.fill_(1.0)
    del x
    y = large()
    y.fill_(2.0)
    assert bool((row == 1.0).all())
    assert y.data_ptr() != row.data_ptr()


@pytest.mark.parametrize("rows", [2, 5])
def test_what_is_too_small_or_more_than_twice_the_size_is_not_taken(rows):
    x = large(shape=(4 + rows % 2 * -1, 1 << 20))  # 16 MiB for 8, 12 for 20
    x.fill_(1.0)
    del x
    y = large(shape=(rows, 1 << 20))
    y.fill_(2.0)
    assert y.shape == (rows, 1 << 20)


def test_a_gradient_outlives_the_next_backward():
    logits = torch.randn(700, 4099, requires_grad=True)
    labels = torch.randint(0, 4099, (700,))

    def gradient(upstream):
        logprobs, _ = token_logprobs(logits, labels, impl="cpp")
        return torch.autograd.grad(logprobs.sum(), [logits], torch.tensor(upstream))[0]

    first = gradient(1.0)
    kept = first.clone()
    second = gradient(2.0)
    assert torch.equal(first, kept)
    torch.testing.assert_close(second, 2.0 * kept)
    token_logprobs(logits, labels, impl="cpp")[0].sum().backward()
    token_logprobs(logits, labels, impl="cpp")[0].sum().backward()
    torch.testing.assert_close(logits.grad, 2.0 * kept)


def test_peak_memory_counts_it():
    def call():
        return large().fill_(1.0)

    call()
    assert 11 << 20 <= peak_bytes(call, CPU) < 20 << 20

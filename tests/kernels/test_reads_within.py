"""No kernel in C++ reads past what it is given: the page behind each input is closed."""

import sys

import pytest
from cases import (
    instruction_set,  # noqa: F401
    needs_native,
    run_alone,
)

GUARDED = """
import ctypes, functools, mmap, sys
import torch
from fairlead_kernels import _native, gae, kl_gae_whiten, kl_rewards, token_logprobs, whiten

rows = ("gae", "kl_rewards", "whiten", "kl_gae_whiten")
for name in (*rows, "logprobs_forward", "logprobs_backward"):
    function = getattr(_native, f"{name}_cpu")
    setattr(_native, f"{name}_cpu", functools.partial(function, instruction_set=sys.argv[1]))

PAGE, KEPT = mmap.PAGESIZE, []
libc = ctypes.CDLL(None, use_errno=True)


def guarded(given):
    room = -(-max(given.nbytes, 1) // PAGE) * PAGE
    memory = mmap.mmap(-1, room + PAGE)
    KEPT.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mprotect(ctypes.c_void_p(start + room), PAGE, 0) == 0
    whole = torch.frombuffer(memory, dtype=given.dtype, count=room // given.itemsize)
    return whole[-given.numel() :].view(given.shape).copy_(given)


for rows, width in ((1, 1), (1, 9), (3, 7), (8, 8), (9, 33), (17, 31), (33, 65)):
    lengths = torch.arange(rows) * 5 % (width + 1)
    lengths[-1] = width
    mask = guarded(torch.arange(width) < lengths[:, None])
    a, b, c = (guarded(torch.randn(rows, width)) for _ in range(3))
    scores = guarded(torch.randn(rows))
    gae(a, b, mask, impl="cpp")
    whiten(a, mask, impl="cpp")
    for estimator in ("k1", "k3"):
        kl_rewards(a, b, scores, mask, 0.1, estimator, impl="cpp")
        kl_gae_whiten(a, b, scores, c, mask, 0.1, estimator=estimator, impl="cpp")

for vocabulary in (1, 7, 33, 1023, 1025, 2051):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        logits = guarded(torch.randn(3, vocabulary).to(dtype)).requires_grad_(True)
        labels = guarded(torch.arange(3) % vocabulary)
        logprobs, entropy = token_logprobs(logits, labels, impl="cpp")
        (logprobs.sum() + entropy.sum()).backward()
"""


@needs_native
@pytest.mark.skipif(sys.platform != "linux", reason="closes a page with Linux's mprotect")
def test_cpp_reads_nothing_past_its_inputs(instruction_set):  # noqa: F811
    run_alone(GUARDED, instruction_set)

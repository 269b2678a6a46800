"""A kernel as a one-file plugin: GAE in log2(T) steps over whole tensors, in place of T in a loop.

See that it is there, hold it against float64 and time it::

    fairlead kernels list --plugin examples/plugins/gae_scan.py
    fairlead bench kernels --op gae --plugin examples/plugins/gae_scan.py

A run that loads the plugin takes it where nothing of a higher priority can run.
"""

import torch
from torch import Tensor

from fairlead import hookimpl
from fairlead.kernels import Kernel
from fairlead.registry import Register


def gae_scan(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns: after step k each sum reaches 2^k positions ahead."""
    rewards = torch.where(response_mask, rewards, 0.0)
    values = torch.where(response_mask, values, 0.0)
    following = torch.nn.functional.pad(values[:, 1:], (0, 1))
    sums = rewards + gamma * following - values
    ahead, width = 1, rewards.shape[1]
    while ahead < width:
        shifted = torch.nn.functional.pad(sums[:, ahead:], (0, ahead))
        sums = sums + (gamma * lam) ** ahead * shifted
        ahead *= 2
    advantages = torch.where(response_mask, sums, 0.0)
    return advantages, advantages + values


@hookimpl
def register_kernels(register: Register) -> None:
    """Register ``gae/scan``: above the reference's priority of 0, below the native 100."""
    register("gae/scan", lambda: Kernel(gae_scan, priority=10))

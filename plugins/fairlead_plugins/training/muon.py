"""Muon for the matrices of the transformer blocks, AdamW for everything else.

Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/) replaces the momentum of a matrix
by the nearest matrix with equal singular values. It suits pretraining. Both updates are torch's;
only Muon's on a CPU is ours (`CpuMuon`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, cast, overload

import torch
from pydantic import Field
from torch import Tensor, nn

from fairlead.config import Config
from fairlead.errors import ConfigError

# Parts of a parameter's name that mark an embedding or a head, also inside a numbered block.
_EMBEDDINGS = frozenset({"wte", "wpe", "shared", "relative_attention_bias"})
_HEADS = frozenset({"lm_head", "score", "classifier", "v_head", "value_head"})

_Beta = Annotated[float, Field(ge=0, lt=1)]


class MuonConfig(Config):
    """Settings of `Muon`.

    Attributes:
        momentum: Of the matrices' gradients.
        nesterov: Whether the momentum looks one gradient ahead.
        weight_decay: Decoupled; for matrices and embeddings, never for vectors.
        adjust_lr: How Muon's rate depends on a matrix's shape. ``original`` multiplies by
            ``sqrt(max(1, rows / columns))`` and takes the rows for outputs, which transformers'
            GPT-2 stores as columns; ``match_rms_adamw`` multiplies by
            ``0.2 * sqrt(max(rows, columns))``, so that a rate tuned for AdamW fits
            (then set ``adamw_scale`` to 1).
        adamw_scale: AdamW's rate as a multiple of the stage's, which is Muon's: 0.02 for the
            matrices goes with 0.003 for the rest.
        betas: AdamW's.
        eps: AdamW's.
    """

    momentum: float = Field(default=0.95, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=0.0, ge=0)
    adjust_lr: Literal["original", "match_rms_adamw"] = "original"
    adamw_scale: float = Field(default=0.15, gt=0)
    betas: tuple[_Beta, _Beta] = (0.9, 0.95)
    eps: float = Field(default=1e-5, gt=0)


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Return whether Muon takes a parameter: a matrix of a transformer block.

    It has two dimensions, lies in a numbered module (``transformer.h.0``, ``model.layers.0``),
    and no part of its name is an embedding's or a head's (``wte``, ``embed_tokens``, ``score``).
    Embeddings, heads, norms, biases and stacks of matrices are AdamW's.
    """
    parts = name.split(".")
    numbered = any(part.isdigit() for part in parts)
    excluded = any(part in _EMBEDDINGS | _HEADS or "embed" in part for part in parts)
    return parameter.ndim == 2 and numbered and not excluded


class CpuMuon(torch.optim.Muon):
    """torch's Muon in float32, all matrices of a shape at once.

    torch iterates in bfloat16: some 26 times slower on a CPU without instructions for it.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take torch's step: the same state, rates and decay."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in shapes.items():
                self._step_shape(group, shape, parameters)

    def _step_shape(
        self, group: dict[str, Any], shape: torch.Size, parameters: list[nn.Parameter]
    ) -> None:
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(gradient))
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        if group["nesterov"]:
            momenta = list(torch._foreach_lerp(gradients, momenta, group["momentum"]))
        scale = math.sqrt(max(1, shape[0] / shape[1]))
        if group["adjust_lr_fn"] == "match_rms_adamw":
            scale = 0.2 * math.sqrt(max(shape))
        updates = orthogonalise(torch.stack(momenta).float(), group["ns_coefficients"])
        tensors: list[Tensor] = list(parameters)
        torch._foreach_mul_(tensors, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(tensors, list(updates), alpha=-group["lr"] * scale)


def orthogonalise(
    matrices: Tensor, coefficients: tuple[float, float, float], steps: int = 5
) -> Tensor:
    """Bring all singular values near 1: ``X <- (a + b G + c G^2) X`` with ``G = X X^T``.

    The factors commute, so only the small Gram matrix is iterated on: ``G <- P^2 G``.
    """
    a, b, c = coefficients
    x = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    gram = torch.bmm(x, x.mT)
    total = None
    for step in range(steps):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        total = factor if total is None else torch.bmm(factor, total)
        if step < steps - 1:
            gram = torch.bmm(factor, torch.bmm(factor, gram))
    assert total is not None
    x = torch.bmm(total, x)
    return x if matrices.shape[-2] <= matrices.shape[-1] else x.mT


class MuonWithAdamW(torch.optim.Optimizer):
    """Two of torch's optimizers as one, with common groups and a common state.

    Args:
        muon: Steps the matrices.
        adamw: Steps the rest; None when there is none.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW | None) -> None:
        self.inner: list[torch.optim.Optimizer] = [muon, *([adamw] if adamw else [])]
        super().__init__([group for one in self.inner for group in one.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Make the inner optimizers work on this one's groups and state."""
        start = 0
        for one in self.inner:
            end = start + len(one.param_groups)
            one.param_groups = self.param_groups[start:end]
            one.state = self.state
            start = end

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state, which torch puts in new groups and a new mapping."""
        super().load_state_dict(state_dict)
        self._share()

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Step both; a closure is called once, before."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for one in self.inner:
            one.step()
        return loss


class Muon:
    """Makes `MuonWithAdamW`; which parameter goes where is `is_hidden_matrix`'s to say."""

    Config = MuonConfig

    def __init__(self, config: MuonConfig) -> None:
        self.config = config

    def __call__(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        """Return the optimizer; the learning rate is the stage's to set, step by step.

        Raises:
            ConfigError: When Muon would have nothing to train.
        """
        named = list(parameters)
        matrices = [p for name, p in named if is_hidden_matrix(name, p)]
        rest = [p for name, p in named if not is_hidden_matrix(name, p)]
        if not matrices:
            raise ConfigError(
                f"the optimizer muon found no matrix of a numbered block among {len(named)} "
                "trainable parameters; it trains those (transformer.h.0, model.layers.0) and "
                "leaves the rest to AdamW. Use {name: adamw} for this model."
            )
        kind = CpuMuon if matrices[0].device.type == "cpu" else torch.optim.Muon
        muon = kind(
            matrices,
            lr=1.0,
            weight_decay=self.config.weight_decay,
            momentum=self.config.momentum,
            nesterov=self.config.nesterov,
            adjust_lr_fn=self.config.adjust_lr,
        )
        return MuonWithAdamW(muon, self._adamw(rest))

    def _adamw(self, tensors: list[nn.Parameter]) -> torch.optim.AdamW | None:
        groups: list[dict[str, Any]] = [
            {"params": [p for p in tensors if p.ndim >= 2]},
            {"params": [p for p in tensors if p.ndim < 2], "weight_decay": 0.0},
        ]
        if not tensors:
            return None
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=self.config.adamw_scale,
            betas=self.config.betas,
            eps=self.config.eps,
            weight_decay=self.config.weight_decay,
            fused=True,
        )

"""What the native kernels call a tensor's dtype."""

from __future__ import annotations

import torch

__all__ = ["FLOAT_TYPES"]

FLOAT_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""FloatType of csrc/include/fairlead/float_type.h."""

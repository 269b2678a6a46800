import inspect
import re

import numpy as np
import pytest
import torch

import fairlead_kernels
from fairlead_kernels.dispatch import registry

WRONG = ([0.0, 1.0], np.zeros(2), None, 1.0)


@pytest.mark.parametrize("op", registry.operations())
@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: type(wrong).__name__)
def test_what_is_no_tensor_is_an_error_that_names_it(op, wrong):
    function = getattr(fairlead_kernels, op)
    args = registry.probe(op, torch.device("cpu"))
    parameters = list(inspect.signature(function).parameters.values())[: len(args)]
    for at, parameter in enumerate(parameters):
        if parameter.annotation not in ("Tensor", "Tensor | None"):
            continue
        if wrong is None and parameter.annotation == "Tensor | None":
            continue
        said = f"{op}: {parameter.name} must be a torch.Tensor, got {type(wrong).__name__}"
        with pytest.raises(TypeError, match=re.escape(said)):
            function(*args[:at], wrong, *args[at + 1 :])


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: type(wrong).__name__)
def test_so_it_is_for_a_weight_to_be_packed(wrong):
    with pytest.raises(TypeError, match=r"pack_weight: weight must be a torch\.Tensor, got"):
        fairlead_kernels.pack_weight(wrong)

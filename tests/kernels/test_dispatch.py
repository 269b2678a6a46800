import pytest
import torch

import fairlead_kernels as kernels
from fairlead_kernels.dispatch import KernelError, KernelRegistry


def runs(*_args):
    return None


def make_registry():
    registry = KernelRegistry()
    registry.define("double", lambda x: ("reference", 2 * x), lambda device: (torch.ones(1),))
    return registry


def add(registry, name, *, available=runs, supports=runs, priority=10, owner="acme"):
    registry.register(
        "double",
        name,
        lambda x: (name, x + x),
        available=available,
        supports=supports,
        priority=priority,
        owner=owner,
    )


def test_auto_takes_the_highest_priority_that_can_run():
    registry = make_registry()
    add(registry, "slow", priority=5)
    add(registry, "fast", priority=20)
    add(registry, "absent", priority=30, available=lambda: "no such device")
    add(registry, "picky", priority=40, supports=lambda x: "only float16")
    assert registry.call("double", "auto", torch.ones(1))[0] == "fast"


def test_auto_falls_to_the_reference_when_nothing_else_supports_the_input():
    registry = make_registry()
    add(registry, "picky", supports=lambda x: None if x.numel() > 1 else "too small")
    assert registry.call("double", "auto", torch.ones(1))[0] == "reference"
    assert registry.call("double", "auto", torch.ones(2))[0] == "picky"


@pytest.mark.parametrize("asked", ["available", "supports"])
@pytest.mark.parametrize("answer", [True, False, "", 0])
def test_an_answer_that_is_neither_none_nor_a_reason_is_said_to_be_so(asked, answer):
    """Whether True means that it can run or that it cannot is not guessed."""
    registry = make_registry()
    add(registry, "vague", priority=20, owner="plugin 'p'", **{asked: lambda *_: answer})
    assert registry.call("double", "auto", torch.ones(1))[0] == "reference"
    with pytest.raises(KernelError, match=f"plugin 'p' says {answer!r} where it is asked for None"):
        registry.call("double", "vague", torch.ones(1))


def test_equal_priorities_go_to_the_one_registered_first():
    registry = make_registry()
    add(registry, "zebra")
    add(registry, "aardvark")
    assert registry.call("double", "auto", torch.ones(1))[0] == "zebra"


def test_a_named_implementation_runs_whatever_its_priority():
    registry = make_registry()
    add(registry, "fast", priority=20)
    assert registry.call("double", "reference", torch.ones(1))[0] == "reference"


def test_a_named_implementation_that_cannot_run_is_an_error_and_no_fallback():
    registry = make_registry()
    add(registry, "absent", available=lambda: "no such device")
    with pytest.raises(KernelError) as error:
        registry.call("double", "absent", torch.ones(1))
    for part in ("'double'", "impl='absent'", "no such device", "Available", "reference"):
        assert part in str(error.value)


def test_an_unknown_name_lists_what_there_is():
    registry = make_registry()
    add(registry, "fast")
    with pytest.raises(KernelError, match=r"impl='fats'.*registered: fast, reference"):
        registry.call("double", "fats", torch.ones(1))


def test_a_name_taken_twice_names_both_owners():
    registry = make_registry()
    add(registry, "fast", owner="acme")
    with pytest.raises(KernelError, match="'acme' and by 'other'"):
        add(registry, "fast", owner="other")


def test_registering_for_an_unknown_operation_lists_the_operations():
    with pytest.raises(KernelError, match=r"'acme'.*'tripel'.*gae"):
        kernels.register_implementation(
            "tripel", "x", runs, available=runs, supports=runs, priority=1, owner="acme"
        )


def test_auto_is_no_name_for_an_implementation():
    with pytest.raises(KernelError, match="selection rule"):
        add(make_registry(), "auto")


def test_the_listing_marks_one_automatic_choice_for_each_operation_and_device():
    rows = kernels.list_implementations()
    for key in {(row.op, row.device) for row in rows}:
        of_key = [row for row in rows if (row.op, row.device) == key]
        assert sum(row.auto for row in of_key) == 1
        assert any(row.impl == "reference" and row.available for row in of_key)
        assert all(bool(row.reason) != row.available for row in of_key)
    assert {row.op for row in rows} == {
        "token_logprobs",
        "linear_logprobs",
        "kl_rewards",
        "decode_attention",
        "gae",
        "whiten",
        "kl_gae_whiten",
        "ppo_policy_loss",
        "ppo_value_loss",
        "sample",
        "philox_uniform",
        "packed_linear",
        "add_layer_norm",
        "gelu",
        "ragged_attention",
    }


def test_a_gpu_kernel_asked_for_on_cpu_tensors_says_why_not():
    with pytest.raises(KernelError, match=r"impl='cuda'.*Available for these inputs: .*reference"):
        kernels.gae(
            torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), impl="cuda"
        )

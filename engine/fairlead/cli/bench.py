"""``fairlead bench``: how fast the kernels are here, and whether they are right."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fairlead.cli.bench_generate import generate
from fairlead.cli.bench_models import warn_busy
from fairlead.cli.bench_ppo import ppo
from fairlead.cli.options import PluginChoice, examples, plugin_options, warn_broken
from fairlead.errors import ConfigError, FairleadError, did_you_mean, listing

if TYPE_CHECKING:
    import torch

    from fairlead.cli.bench_files import Files
    from fairlead.ui import Display
    from fairlead_kernels.bench import Benchmark, Case, Row, Shape, Workload

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Wanted:
    """What a command line asks to be measured; an empty choice is all, or the default."""

    ops: tuple[str, ...]
    impls: tuple[str, ...]
    shapes: tuple[str, ...]
    dtypes: tuple[str, ...]
    devices: tuple[str, ...]
    threads: tuple[int, ...]
    sweep: bool


def many(name: str, metavar: str, text: str, default: str, **more: Any) -> Callable[[F], F]:
    """Return an option that may be given several times."""
    return click.option(
        f"--{name}",
        name if name.endswith("s") else f"{name}s",
        multiple=True,
        metavar=metavar,
        help=f"{text}; may be given several times.  [default: {default}]",
        **more,
    )


@click.group(
    epilog=examples(
        "fairlead bench kernels --op gae",
        "fairlead bench generate --rows 1",
        "fairlead bench ppo",
    )
)
def bench() -> None:
    """Measure how fast things are here."""


bench.add_command(generate)
bench.add_command(ppo)


@bench.command(
    epilog=examples(
        "fairlead bench kernels --op gae --shape 512x256 --threads 1 --threads 2",
        "fairlead bench kernels --op whiten --impl mine --plugin ./my_kernel.py",
        "fairlead bench kernels --op token_logprobs --sweep --plot logprobs.html",
        "fairlead bench kernels --json benchmarks/results/mine.json",
    )
)
@many("op", "NAME", "An operation", "all")
@many("impl", "NAME", "An implementation; baselines are measured too", "all")
@many("shape", "AxBx..", "A size, such as 512x256", "a few for each operation")
@many("dtype", "NAME", "float32, bfloat16 or float16", "one for each operation")
@many("device", "NAME", "cpu or cuda", "cuda where there is one")
@many("threads", "N", "Threads on the CPU", "torch's number", type=click.IntRange(1))
@click.option(
    "--sweep", is_flag=True, help="Vary each axis in five steps, up to the size asked for."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="How long to measure each implementation and baseline.",
)
@click.option(
    "--compile/--no-compile",
    "compiled",
    default=None,
    help="Whether torch.compile is a baseline.  [default: yes, but not in a sweep]",
)
@click.option("--json", "json_file", metavar="FILE", help="Write everything that was measured.")
@click.option("--csv", "csv_file", metavar="FILE", help="Write the rows as a table.")
@click.option("--plot", "plot_file", metavar="FILE.html", help="Write a page with charts.")
@plugin_options()
@click.pass_context
def kernels(
    ctx: click.Context,
    /,
    seconds: float,
    compiled: bool | None,
    json_file: str | None,
    csv_file: str | None,
    plot_file: str | None,
    plugin: Sequence[str],
    no_plugin: Sequence[str],
    **wanted: Any,
) -> None:
    """Measure the kernels, those of plugins too, against what people use instead.

    Each is first held against float64 results. One that is wrong is shown as wrong and not
    timed, and the command ends with exit code 1. A time is a median; baselines are timed in
    turns with the rest, on the same seeded inputs.
    """
    from fairlead.cli.bench_files import Files
    from fairlead.cli.bench_view import show
    from fairlead.kernels import install_kernels
    from fairlead.ui import Display
    from fairlead_kernels.bench import Benchmark

    plugins = PluginChoice.of(ctx, plugin, no_plugin).load()
    warn_broken(plugins)
    install_kernels(plugins)
    choice = Wanted(**wanted)
    cases = choose(choice)
    benchmark = Benchmark(
        choice.impls or None, seconds, not choice.sweep if compiled is None else compiled
    )
    if choice.shapes:
        check_memory(benchmark, cases)
    files = Files.checked(json_file, csv_file, plot_file)
    display = Display()
    rows = measure(benchmark, cases, files, display)
    show(benchmark, rows, display)
    for path in files.written:
        display.note(f"written to {path}")
    refuse(rows)


def measure(
    benchmark: Benchmark, cases: Sequence[Case], files: Files, display: Display
) -> list[Row]:
    """Run the cases; what is done when the command is interrupted is written all the same."""
    from fairlead_kernels.bench import provenance

    rows: list[Row] = []
    facts = provenance(" ".join(["fairlead", *sys.argv[1:]]))
    warn_busy(facts, display)
    try:
        with (
            closing(benchmark.run(cases)) as results,
            display.stage("bench kernels", "case", len(cases)) as progress,
        ):
            for number, case in enumerate(cases, 1):
                display.note(f"{case.title} ...")
                rows += next(results)
                progress.advance(number, {})
    finally:
        machines = [machine.as_dict() for machine in benchmark.machines.values()]
        if rows:
            files.write(rows, machines, facts)
    return rows


def check_memory(benchmark: Benchmark, cases: Sequence[Case]) -> None:
    """Raise ConfigError, before anything runs, for a size that was asked for and does not fit."""
    for case in cases:
        why = benchmark.shortage(case)
        if why is not None:
            raise ConfigError(
                f"--shape {'x'.join(map(str, case.shape))}: {case.title} does not fit: {why}. "
                "Give a smaller --shape."
            )


def refuse(rows: Sequence[Row]) -> None:
    """Raise FairleadError when an implementation is wrong, or none could be measured."""
    bad = {f"{row.op}/{row.impl}" for row in rows if row.bad}
    if bad:
        raise FairleadError(f"not timed, because wrong or broken: {listing(bad)}. See above.")
    ours = [row for row in rows if row.kind == "implementation"]
    if not any(row.status == "timed" for row in ours):
        why = listing({f"{row.impl}: {row.reason}" for row in ours})
        raise FairleadError(f"nothing could be measured here ({why}).")


def choose(wanted: Wanted) -> list[Case]:
    """Return what a command line asks for.

    Raises:
        ConfigError: When it names something that there is not.
    """
    import torch

    from fairlead_kernels import list_implementations
    from fairlead_kernels.bench import Case, workloads

    there = workloads()
    known = list(dict.fromkeys(one.op for one in there))
    for op in wanted.ops:
        _known("op", "operation", op, known)
    chosen = [one for one in there if not wanted.ops or one.op in wanted.ops]
    ops = {one.op for one in chosen}
    impls = {row.impl for row in list_implementations() if row.op in ops}
    for impl in wanted.impls:
        _known("impl", "implementation", impl, sorted(impls))
    devices = _devices(wanted.devices)
    dtypes = _dtypes(wanted, chosen)
    shapes = [_shape(text) for text in wanted.shapes]
    _check_shapes(wanted, shapes, chosen)
    cases = []
    for workload in chosen:
        for device in devices:
            counts = wanted.threads if device.type == "cpu" else ()
            for shape in _sizes(workload, shapes, device.type, wanted.sweep):
                for dtype in dtypes or [workload.default_dtype(device.type)]:
                    if dtype not in workload.dtypes:
                        continue
                    for threads in counts or [torch.get_num_threads()]:
                        cases.append(Case(workload, shape, dtype, device, threads))
    return cases


def _known(option: str, what: str, given: str, allowed: Sequence[str]) -> None:
    if given not in allowed:
        raise ConfigError(
            f"--{option} {given}: there is no such {what}{did_you_mean(given, allowed)}. "
            f"There are: {', '.join(allowed)}."
        )


def _devices(names: Sequence[str]) -> list[torch.device]:
    import torch

    cuda = torch.cuda.is_available()
    for name in names:
        _known("device", "device", name, ("cpu", "cuda"))
        if name == "cuda" and not cuda:
            raise ConfigError("--device cuda: torch sees no CUDA device here. Use --device cpu.")
    return [torch.device(name) for name in dict.fromkeys(names or ["cuda" if cuda else "cpu"])]


def _dtypes(wanted: Wanted, chosen: Sequence[Workload]) -> list[torch.dtype]:
    from fairlead_kernels.bench import dtype_name

    known = {dtype_name(dtype): dtype for workload in chosen for dtype in workload.dtypes}
    for name in wanted.dtypes:
        _known("dtype", "dtype for these operations", name, list(known))
    dtypes = [known[name] for name in wanted.dtypes]
    for op in wanted.ops if dtypes else ():
        taken = {dtype for workload in chosen if workload.op == op for dtype in workload.dtypes}
        if not taken & set(dtypes):
            raise ConfigError(
                f"--dtype {' '.join(wanted.dtypes)}: {op} is measured in "
                f"{listing(dtype_name(dtype) for dtype in taken)} only. Leave --dtype out."
            )
    return dtypes


def _shape(text: str) -> Shape:
    try:
        shape = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        shape = (0,)
    if min(shape) < 1:
        raise ConfigError(
            f"--shape {text}: a shape is whole numbers from 1 with x between them, such as 512x256."
        )
    return shape


def _check_shapes(wanted: Wanted, shapes: Sequence[Shape], chosen: Sequence[Workload]) -> None:
    """Raise ConfigError for a shape that no operation takes, or an operation without one."""
    for text, shape in zip(wanted.shapes, shapes, strict=True):
        takers = [one for one in chosen if len(one.axes) == len(shape)]
        if not takers:
            raise ConfigError(
                f"--shape {text}: none of the operations asked for takes {len(shape)} numbers. "
                f"They take {_axes(chosen)}."
            )
        for one in takers:
            why = one.refuse(shape) if one.refuse else None
            if why is not None:
                raise ConfigError(f"--shape {text}: {one.op} does not take it: {why}.")
    for one in chosen if shapes else ():
        if one.op in wanted.ops and all(len(shape) != len(one.axes) for shape in shapes):
            raise ConfigError(
                f"--op {one.op}: no --shape has {len(one.axes)} numbers. Give {_axes([one])}."
            )


def _axes(chosen: Sequence[Workload]) -> str:
    return listing({f"{one.op} {'x'.join(one.axes)}" for one in chosen})


def _sizes(workload: Workload, given: Sequence[Shape], device: str, sweep: bool) -> list[Shape]:
    """Return the sizes to run one workload at: those given, else its own; or a sweep up to them."""
    fitting = [shape for shape in given if len(shape) == len(workload.axes)]
    shapes = fitting if given else list(workload.shapes.get(device, ()))
    if not sweep:
        return shapes
    return list(dict.fromkeys(small for one in shapes[:1] for small in workload.sweep(one)))

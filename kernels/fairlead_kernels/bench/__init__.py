"""The benchmark of the kernels: a gate that lets nothing wrong be timed, and a clock.

`workloads` lists what there is to run; `Benchmark.run` runs cases of it. Inputs are seeded. How
time and memory are measured is said in `timing` and `memory`, how right is told from wrong in
`judge`.
"""

from __future__ import annotations

from fairlead_kernels.bench.cases import workloads
from fairlead_kernels.bench.machine import dtype_name, provenance
from fairlead_kernels.bench.rows import COLUMNS, Row
from fairlead_kernels.bench.run import COMPILE, EAGER, Benchmark, Case
from fairlead_kernels.bench.workload import Shape, Workload

__all__ = [
    "COLUMNS",
    "COMPILE",
    "EAGER",
    "Benchmark",
    "Case",
    "Row",
    "Shape",
    "Workload",
    "dtype_name",
    "provenance",
    "workloads",
]

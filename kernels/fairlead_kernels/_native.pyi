compiler: str
cuda_architectures: str

def cpu_instruction_set() -> str: ...
def gae_cpu(
    rewards: int,
    values: int,
    mask: int,
    advantages: int,
    returns: int,
    rows: int,
    cols: int,
    gamma: float,
    lam: float,
    threads: int = 1,
    instruction_set: str = "",
) -> None: ...
def gae_cuda(
    rewards: int,
    values: int,
    mask: int,
    advantages: int,
    returns: int,
    rows: int,
    cols: int,
    gamma: float,
    lam: float,
    device: int,
    stream: int,
) -> None: ...

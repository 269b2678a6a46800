compiler: str
cuda_architectures: str

def cpu_instruction_set() -> str: ...
def decode_attention_cpu(
    query: int,
    keys: int,
    values: int,
    lengths: int,
    out: int,
    shape: tuple[int, int, int, int, int],
    strides: tuple[int, int, int, int, int, int, int, int],
    scale: float,
    cache_type: int,
    threads: int = 1,
    instruction_set: str = "",
) -> None: ...
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

compiler: str
cuda_architectures: str

def cpu_instruction_set() -> str: ...
def advise_huge_pages(address: int, bytes: int) -> None: ...
def logprobs_forward_cpu(
    logits: int,
    labels: int,
    state: int,
    logprobs: int,
    entropy: int,
    stats: int,
    block: tuple[int, int, int, int, int, int, float],
    threads: int = 1,
    instruction_set: str = "",
) -> None: ...
def logprobs_backward_cpu(
    logits: int,
    labels: int,
    stats: int,
    grad_logprobs: int,
    grad_entropy: int,
    grad_logits: int,
    grad_stride: int,
    block: tuple[int, int, int, int, int, int, float],
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

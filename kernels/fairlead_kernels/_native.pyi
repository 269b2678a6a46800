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
def philox_uniform_cpu(
    seed: int,
    iteration: int,
    sequence: int,
    position: int,
    uniform: int,
    count: int,
    threads: int = 1,
    instruction_set: str = "",
) -> None: ...
def philox_uniform_cuda(
    seed: int,
    iteration: int,
    sequence: int,
    position: int,
    uniform: int,
    count: int,
    device: int,
    stream: int,
) -> None: ...
def sample_cpu(
    logits: int,
    u: int,
    tokens: int,
    logprobs: int,
    entropies: int,
    rows: int,
    cols: int,
    stride: int,
    element: int,
    temperature: float,
    top_k: int,
    top_p: float,
    threads: int = 1,
    instruction_set: str = "",
) -> None: ...
def sample_cuda(
    logits: int,
    u: int,
    tokens: int,
    logprobs: int,
    entropies: int,
    rows: int,
    cols: int,
    stride: int,
    element: int,
    temperature: float,
    top_k: int,
    top_p: float,
    device: int,
    stream: int,
) -> None: ...

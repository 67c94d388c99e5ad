"""Parts that measure: training steps, matrix products, decoding."""

import time
from statistics import median
from typing import Any

import numpy as np

from bench.children import time_runs
from bench.contenders import SIZES
from bench.gpu.parts import Answer, Settings
from bench.train_step import CONTENDERS, make_contender, make_peak, parse_work, peak_size

MORE_CONTENDERS = CONTENDERS | {
    "jax baseline": "bench.jax_baseline:make",
    "torch compiled graphs": "bench.contenders:torch_cuda_graphs",
    "torch compiled step": "bench.contenders:torch_compiled_step",
}


def device(settings: Settings, backend: str) -> Answer:
    """Return the device's name as the framework reports it, after one product there."""
    if backend == "torch":
        import torch

        on_cpu = settings.device == "cpu"
        name = "cpu" if on_cpu else torch.cuda.get_device_name(settings.device)
        memory = None if on_cpu else torch.cuda.get_device_properties(settings.device).total_memory
        x = torch.ones(8, 8, device=settings.device)
        total = float((x @ x).sum())
    else:
        import jax

        found = jax.devices(settings.device.partition(":")[0])[0]
        name, memory = found.device_kind, (found.memory_stats() or {}).get("bytes_limit")
        y = jax.device_put(np.ones((8, 8), np.float32), found)
        total = float((y @ y).sum())
    return {"status": "passed" if total == 512.0 else "failed", "name": name, "memory": memory}


def product(settings: Settings, work: str) -> Answer:
    """Time a square matrix product in torch: the peak that can be reached."""
    parsed = parse_work(work, settings.device, settings.threads)
    calls = make_peak(parsed)
    seconds = calls["steps"](3 if settings.tiny else 20)["seconds"]
    return {
        "status": "measured",
        "dtype": parsed.dtype,
        "flops": 2 * peak_size(settings.device) ** 3 / min(seconds),
    }


def step(settings: Settings, work: str, contender: str) -> Answer:
    """Time a contender's training step. `bench.gpu.report` compares the first steps of all contenders."""
    from lm.flops import train_flops_per_token

    parsed = parse_work(work, settings.device, settings.threads)
    calls = make_contender(MORE_CONTENDERS[contender], parsed)
    first = calls["first"]()
    update = first.pop("update").ravel()
    warm = calls["steps"](2)["seconds"]
    wanted = 0.5 if settings.tiny else 6.0
    samples = calls["steps"](max(3, min(100, int(wanted / warm[1]))))
    tokens = parsed.batch_size * parsed.model.context_length
    return {
        "status": "measured",
        **first,
        # Enough of the update to compare it with the others'.
        "update": update[:: max(1, update.size // 500)].tolist(),
        "samples": samples,
        "tokens": tokens,
        "flops": tokens * train_flops_per_token(parsed.model),
        **calls["end"](),
    }


def decode(settings: Settings, backend: str) -> Answer:
    """Time one text and 32 texts at once."""
    from bench.generate import MODEL, PROMPT_TOKENS, make_ours

    model, count = (SIZES["nano"], 4) if settings.tiny else (MODEL, 128)
    calls = make_ours(backend, "", settings.threads, settings.device, model)
    answer: Answer = {"status": "measured", "new_tokens": count}
    for prompts in (1, 2) if settings.tiny else (1, 32):
        ids = np.random.default_rng(0).integers(0, model.vocab_size, (prompts, PROMPT_TOKENS)).tolist()
        calls["time"](ids, count)  # compiles
        taken = [calls["time"](ids, count) for _ in range(settings.rounds)]
        answer[str(prompts)] = {
            "tokens_per_second": prompts * count / median(last for _, last in taken),
            "first_token_seconds": median(first for first, _ in taken),
        }
    return answer


def attention_blocks(settings: Settings) -> Answer:
    """Time torch's attention, forward and backward, with blocks of several sizes, in bfloat16 and then in float32."""
    import torch

    from torch_impl.fast import attention
    from torch_impl.masks import causal_mask

    B, H, T, K = (1, 2, 64, 8) if settings.tiny else (32, 12, 1024, 64)
    where = torch.device(settings.device)
    answer: Answer = {"status": "measured", "shape": [B, H, T, K]}
    end = time.monotonic() + 0.8 * settings.seconds
    for dtype in (torch.bfloat16, torch.float32):
        q, k, v = (torch.randn(B, H, T, K, device=where, dtype=dtype).requires_grad_() for _ in range(3))

        def run(q: Any = q, k: Any = k, v: Any = v) -> None:
            out: Any = attention.grouped_query_attention(q, k, v, causal_mask(T, where))
            torch.autograd.grad(out, (q, k, v), out.detach())
            if where.type != "cpu":
                torch.cuda.synchronize()

        for queries, keys in ((512, 512), (1024, 1024), (256, 256), (128, 128), (1024, 512), (512, 1024)):
            if settings.seconds and time.monotonic() > end:
                break
            attention.QUERIES, attention.KEYS = attention.BLOCK_GPU = queries, keys
            time_runs(run, 2)
            seconds = median(time_runs(run, 2 if settings.tiny else 10)["seconds"])
            answer[f"{queries} x {keys}, {str(dtype).removeprefix('torch.')}"] = seconds
    return answer

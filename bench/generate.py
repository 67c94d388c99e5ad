"""Time generation beside transformers and CTranslate2 with the same weights: `python -m bench generate`.

Each contender is a process of its own, and they take turns. First all must write the same greedy text, or nothing is
timed; only CTranslate2's int8 weights may differ. The timed texts are drawn at temperature 1 without any other rule,
and none ends early. CTranslate2 is left out if it is not installed.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench import options
from bench.children import Calls, Child, quartiles, show_progress
from bench.contenders import SIZES, load_ours
from bench.machine import describe, flags
from bench.report import save
from lm.cli.flags import Gather
from lm.config import ModelConfig, TrainConfig
from lm.init import initial_weights
from lm.tables import markdown_table

MODEL = SIZES["tinystories"]
PROMPT_TOKENS, GREEDY_TOKENS = 16, 24
BASELINE, INT8 = "transformers", "ctranslate2 int8"
Prompts = list[list[int]]


def main(arguments: list[str]) -> None:
    """Measure, print a table, and write JSON on demand."""
    parser = options.new_parser("generate", str(__doc__), rounds=5)
    parser.add_argument(
        "--prompts",
        type=int,
        nargs="+",
        action=Gather,
        default=[1, 32],
        help="prompts at once (default: 1 32)",
    )
    parser.add_argument(
        "--new-tokens", type=int, default=128, help="tokens to write for each prompt (default: 128)"
    )
    options.add_json(parser)
    given = options.parse(parser, arguments)
    result = measure(given.prompts, given.new_tokens, given.rounds, given.threads)
    machine = result["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "jax", "transformers"))
    print(f"{machine['processor']}, {given.threads} threads; {versions}; {result['time']}")
    print(f"`{result['command']}`\n")
    head = ("", "tokens/s", "times transformers", "first token", "times transformers")
    print(markdown_table(head, list(_rows(result))))
    if given.json:
        save(result, given.json)


def measure(prompts: list[int], new_tokens: int, rounds: int, threads: int) -> dict[str, Any]:
    """Return all samples: seconds to the first and to the last token, of each contender in each round."""
    options.set_threads(threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    ids = np.random.default_rng(0).integers(0, MODEL.vocab_size, (max(prompts), PROMPT_TOKENS)).tolist()
    samples: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        contenders: dict[str, Callable[..., Calls]] = {
            "jax": make_ours,
            "torch": make_ours,
            BASELINE: make_theirs,
        }
        if find_spec("ctranslate2"):
            contenders |= {"ctranslate2": make_ctranslate2, INT8: make_ctranslate2}
        else:
            print("CTranslate2 is not measured: pip install ctranslate2", file=sys.stderr)
        children = {name: Child(make, name, folder, threads) for name, make in contenders.items()}
        try:
            texts = {name: child.ask("greedy", ids[:1], GREEDY_TOKENS) for name, child in children.items()}
            if any(text != texts[BASELINE] for name, text in texts.items() if name != INT8):
                sys.exit(f"nothing is timed without parity: the greedy texts differ: {texts}")
            for count in prompts:
                for child in children.values():
                    child.ask("time", ids[:count], new_tokens)  # compiles and fills caches
                for number in range(rounds):
                    for name in list(children) if number % 2 else reversed(children):
                        show_progress(f"{count} at once: round {number + 1} of {rounds}, {name}")
                        first, last = children[name].ask("time", ids[:count], new_tokens)
                        sample = {"prompts": count, "round": number, "first_seconds": first, "seconds": last}
                        samples.setdefault(name, []).append(sample)
        finally:
            show_progress("")
            for child in children.values():
                child.close()
    return {
        "command": "python -m bench generate " + " ".join(sys.argv[2:]),
        "time": time.strftime("%Y-%m-%d %H:%M"),
        "machine": describe(("torch", "jax", "jaxlib", "transformers", "numpy")),
        "flags": flags(),
        "model": "tinystories",
        "new_tokens": new_tokens,
        "samples": samples,
    }


def _rows(result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    samples = result["samples"]
    for count in dict.fromkeys(sample["prompts"] for sample in samples[BASELINE]):
        by_name = {name: [s for s in taken if s["prompts"] == count] for name, taken in samples.items()}
        for name, taken in by_name.items():
            speed = median(count * result["new_tokens"] / s["seconds"] for s in taken)
            first = median(s["first_seconds"] for s in taken)
            ratios = [
                "" if name == BASELINE else _ratio(by_name[BASELINE], taken, key)
                for key in ("seconds", "first_seconds")
            ]
            yield f"{count} at once, {name}", f"{speed:,.0f}", ratios[0], f"{first * 1e3:.1f} ms", ratios[1]


def _ratio(theirs: list[dict[str, Any]], ours: list[dict[str, Any]], key: str) -> str:
    low, middle, high = quartiles([a[key] / b[key] for a, b in zip(theirs, ours, strict=True)])
    return f"{middle:.2f} ({low:.2f} - {high:.2f})"


def write_model(folder: Path) -> None:
    """Write our initial weights of the tinystories model in Llama's format, with a tokenizer whose tokens are ids."""
    from lm.interop import export_model
    from lm.interop.families import FAMILIES
    from lm.text.ends import Ends

    weights = initial_weights(MODEL, 0, "float32")
    export_model.write_model(FAMILIES["llama"], MODEL, weights, folder, Ends())
    if find_spec("ctranslate2"):  # it converts no model without a tokenizer
        import tokenizers
        from transformers import PreTrainedTokenizerFast

        words = tokenizers.models.WordLevel({str(i): i for i in range(MODEL.vocab_size)}, "0")
        tokenizer = tokenizers.Tokenizer(words)
        ends = {
            "unk_token": "0",
            "bos_token": "1",
            "eos_token": "2",
        }  # CTranslate2 reads no model without them
        fast: Any = PreTrainedTokenizerFast
        fast(tokenizer_object=tokenizer, **ends).save_pretrained(folder)


# What the child processes do


def make_ours(name: str, folder: str, threads: int, device: str = "cpu", model: ModelConfig = MODEL) -> Calls:
    """Generate with `lm.text.generate` on a backend. `folder` is for the others, which read the model from there."""
    from lm.text.generate import generate
    from lm.text.sampling import SamplingConfig

    config = TrainConfig(model, threads=threads, device=device)
    backend = load_ours(name, config)
    state = backend.load_state(config, initial_weights(model, 0, "float32"), None)
    steps = backend.make_prefill(config), backend.make_decode_step(config)

    def greedy(prompts: Prompts, new_tokens: int) -> list[int]:
        sampling = SamplingConfig(max_new_tokens=new_tokens, temperature=0.0)
        return [drawn.token for drawn in generate(*steps, state, config, prompts, sampling)]

    def time_both(prompts: Prompts, new_tokens: int) -> tuple[float, float]:
        start = time.perf_counter()
        drawn = generate(*steps, state, config, prompts, SamplingConfig(max_new_tokens=new_tokens))
        next(drawn)
        first = time.perf_counter() - start
        assert sum(1 for _ in drawn) == len(prompts) * new_tokens - 1
        return first, time.perf_counter() - start

    return {"greedy": greedy, "time": time_both}


def make_theirs(name: str, folder: str, threads: int) -> Calls:
    """Generate with transformers' LlamaForCausalLM. Its defaults, sdpa and a dynamic cache, are the fastest."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)

    def run(prompts: Prompts, new_tokens: int, sample: bool) -> torch.Tensor:
        ids = torch.tensor(prompts)
        mask = torch.ones_like(ids)
        with torch.no_grad():
            written: torch.Tensor = model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=new_tokens,
                do_sample=sample,
                top_k=0,
                pad_token_id=0,
            )
        return written[:, ids.shape[1] :]

    def time_both(prompts: Prompts, new_tokens: int) -> tuple[float, float]:
        start = time.perf_counter()
        run(prompts, 1, True)
        first = time.perf_counter() - start
        start = time.perf_counter()
        assert run(prompts, new_tokens, True).shape == (len(prompts), new_tokens)
        return first, time.perf_counter() - start

    return {"greedy": lambda prompts, n: run(prompts, n, False)[0].tolist(), "time": time_both}


def make_ctranslate2(name: str, folder: str, threads: int) -> Calls:
    """Generate with CTranslate2, in float32 or with int8 weights."""
    import ctranslate2

    dtype = "int8" if name == INT8 else "float32"
    path = str(Path(folder) / dtype)
    ctranslate2.converters.TransformersConverter(folder).convert(path, quantization=dtype)
    generator = ctranslate2.Generator(path, compute_type=dtype, intra_threads=threads)

    def run(prompts: Prompts, new_tokens: int, topk: int) -> list[list[int]]:
        found = generator.generate_batch(
            [list(map(str, prompt)) for prompt in prompts],
            min_length=new_tokens,
            max_length=new_tokens,
            sampling_topk=topk,  # 0 draws from all tokens
            include_prompt_in_result=False,
        )
        return [one.sequences_ids[0] for one in found]

    def time_both(prompts: Prompts, new_tokens: int) -> tuple[float, float]:
        start = time.perf_counter()
        run(prompts, 1, 0)
        first = time.perf_counter() - start
        start = time.perf_counter()
        assert all(len(ids) == new_tokens for ids in run(prompts, new_tokens, 0))
        return first, time.perf_counter() - start

    return {"greedy": lambda prompts, n: run(prompts, n, 1)[0], "time": time_both}

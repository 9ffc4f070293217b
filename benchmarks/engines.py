"""Tokens per second of both engines and of a plain Hugging Face ``generate``, in turn, in one run, on the same prompts.

    python benchmarks/engines.py --out benchmarks/results/engines.json

The load is one rollout of the default task: 16 Countdown prompts x 16 samples of the shipped tiny model. The three take turns round
by round, so that a busy machine slows all of them alike; the medians over rounds are reported. ``generate`` returns no
log-probabilities, which the engines do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODEL = Path(__file__).parents[1] / "aer_lightning" / "assets" / "countdown-tiny"


def prompts(tokenizer: Any, count: int) -> list[tuple[int, ...]]:
    from aer_lightning.data.prompts.countdown import CountdownPrompts

    source = CountdownPrompts()
    source.load()
    return [tuple(tokenizer(source[index].text)["input_ids"]) for index in range(count)]


def hugging_face(model: Any, ids: list[tuple[int, ...]], pad: int, max_new_tokens: int) -> Callable[[], int]:
    """A closure that generates once and returns the number of tokens up to the end token of each row."""
    import torch

    width = max(map(len, ids))
    padded = torch.tensor([(pad,) * (width - len(row)) + row for row in ids])
    mask = (torch.arange(width) >= torch.tensor([[width - len(row)] for row in ids])).long()
    end = model.generation_config.eos_token_id

    def run() -> int:
        output = model.generate(padded, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=max_new_tokens, pad_token_id=pad)
        ended = (output[:, width:] == end).cumsum(-1)
        return int(((ended == 0) | ((ended == 1) & (output[:, width:] == end))).sum())

    return run


def engine_run(engine: Any, ids: list[tuple[int, ...]], max_new_tokens: int) -> Callable[[], int]:
    """A closure that generates once, with new seeds each time, and returns the number of tokens."""
    from aer_lightning.data.engines.base import GenerationRequest, SamplingParams

    calls = iter(range(1 << 30))

    def run() -> int:
        seeds = range(next(calls) * len(ids), 1 << 62)
        requests = [GenerationRequest(row, seed) for row, seed in zip(ids, seeds, strict=False)]
        return sum(len(completion.token_ids) for completion in engine.generate(requests, SamplingParams(1.0, max_new_tokens)))

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL, help="Hugging Face folder (default: the shipped model)")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--samples", type=int, default=16, help="samples a prompt")
    parser.add_argument("--max-new-tokens", type=int, default=26)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="torch threads of this process, and of vLLM's worker")
    parser.add_argument("--no-vllm", action="store_true")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from aer_lightning.data.engines import TransformersEngine, VLLMEngine

    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    ids = [row for row in prompts(tokenizer, options.prompts) for _ in range(options.samples)]
    engines: dict[str, Any] = {"TransformersEngine": TransformersEngine()}
    if not options.no_vllm:
        engines["VLLMEngine"] = VLLMEngine(cpu_threads=options.threads)
    contestants = {"generate": hugging_face(model, ids, tokenizer.pad_token_id, options.max_new_tokens)}
    report: dict[str, Any] = {"model": options.model.name, "parameters": model.num_parameters(), "sequences": len(ids)}
    report |= {"max_new_tokens": options.max_new_tokens, "threads": options.threads, "rounds": options.rounds, "results": {}}
    for name, engine in engines.items():
        began = time.perf_counter()
        max_model_len = max(map(len, ids)) + options.max_new_tokens
        engine.start(options.model, max_model_len=max_model_len, device=torch.device("cpu"), seed=0)
        engine.sync_weights(model.state_dict().items(), version=0)
        ready = time.perf_counter() - began
        engine.sync_weights(model.state_dict().items(), version=1)
        contestants[name] = engine_run(engine, ids, options.max_new_tokens)
        report["results"][name] = {"start_seconds": round(ready, 2), "sync_seconds": round(time.perf_counter() - began - ready, 3)}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    tokens: dict[str, list[int]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()  # the first call of each pays for what is done once
    for _ in range(options.rounds):
        for name, run in contestants.items():
            began = time.perf_counter()
            tokens[name].append(run())
            seconds[name].append(time.perf_counter() - began)
    for name in contestants:
        median = statistics.median(seconds[name])
        report["results"].setdefault(name, {}).update(
            seconds=round(median, 4),
            tokens_per_completion=round(statistics.mean(tokens[name]) / len(ids), 2),
            tokens_per_second=round(statistics.median(n / s for n, s in zip(tokens[name], seconds[name], strict=True))),
            completions_per_second=round(len(ids) / median),
            speedup_over_generate=round(statistics.median(a / b for a, b in zip(seconds["generate"], seconds[name], strict=True)), 2),
        )
    for engine in engines.values():
        engine.close()
    print(json.dumps(report, indent=2))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

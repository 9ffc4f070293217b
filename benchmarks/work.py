"""How much is computed beyond what has to be: a real rollout and its real optimizer steps on a tiny model, with every operation counted.

    python benchmarks/work.py [--json] [--lengths lognormal --mean 2000 --sigma 0.9 --max 8192 --seed 0] [--prompts 64 --responses 8]
                              [--steps 1] [--tokens 16384] [--ranks 1] [--quick]

``executed`` counts floating-point operations with torch's FlopCounterMode, over all ranks, in scoring and training. ``ideal`` is what
the rows need: 6 x parameters of the decoder x their tokens, attention on whole sequences (forward 2, backward 5 products), and the head's
three products on response tokens. ``shared_share`` is the share of the sequences' tokens that no row holds a second time (a group's
prompt, and what else completions of a pack have in common at their beginning) or needs at all (the last); it is saved beside the ratio.
``former`` is the same rollout in padded micro-batches of eight sequences, sorted by length,
with a scoring pass before every step, by formula.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.utils.flop_counter import FlopCounterMode

PROMPT, VOCABULARY, HIDDEN, HEADS, LAYERS = 96, 1003, 32, 4, 1
ARGUMENTS = "AER_WORK_ARGUMENTS"
COLLECTIVES = ("all_reduce", "all_gather_object", "all_to_all_single", "all_gather_into_tensor", "reduce_scatter_tensor", "broadcast")


def draw_lengths(args: argparse.Namespace) -> list[int]:
    """Response tokens of every sequence, 1 <= n <= max."""
    draw = random.Random(args.seed)
    count = args.prompts * args.responses
    if args.lengths == "equal":
        return [int(args.mean)] * count
    import math

    mu = math.log(args.mean) - args.sigma**2 / 2
    return [min(args.max, max(1, round(draw.lognormvariate(mu, args.sigma)))) for _ in range(count)]


def build_model(folder: Path) -> None:
    """Save a random Qwen3 with the shipped tokenizer."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from aer_lightning.tiny_model import build_tokenizer

    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=3 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        head_dim=HIDDEN // HEADS,
        max_position_embeddings=16384,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def decoder_parameters() -> int:
    """Weights of the decoder's matrices: what a token is multiplied with, embedding and head apart."""
    kv = HIDDEN // 2
    return LAYERS * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * kv + 3 * HIDDEN * 3 * HIDDEN)


def ideal_flops(lengths: list[int], scored: bool = False, rows: tuple[int, int] | None = None) -> float:
    """Operations that sequences of these response lengths need.

    Args:
        lengths: response tokens of each.
        scored: whether a scoring pass goes before the training.
        rows: tokens that the rows of training and of scoring hold; those of all sequences if left out.
    """
    head, n, whole = HIDDEN * VOCABULARY, decoder_parameters(), sum(PROMPT + r for r in lengths)
    trained, once = rows or (whole, whole)
    pairs = sum((PROMPT + r) ** 2 * HIDDEN * LAYERS for r in lengths)
    train = 6 * n * trained + 14 * pairs + 6 * head * sum(lengths)
    return float(train + scored * (2 * n * once + 4 * pairs + 2 * head * sum(lengths)))


def former_flops(lengths: list[int], micro: int = 8) -> float:
    """The same in padded micro-batches, scored before and with the head's product repeated in the backward pass."""
    total, ordered = 0.0, sorted(lengths)
    for start in range(0, len(ordered), micro):
        batch = ordered[start : start + micro]
        padded = [batch[-1]] * len(batch)
        real = 8 * HIDDEN * VOCABULARY * sum(batch) + 2 * HIDDEN * VOCABULARY * sum(batch)
        total += ideal_flops(padded, True) - 8 * HIDDEN * VOCABULARY * sum(padded) + real
    return total


def attention_formulas() -> None:
    """Torch has none for its CPU attention: two products forward, five backward, for every query head."""
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    aten = torch.ops.aten

    def forward(query: Any, key: Any, *args: Any, **_: Any) -> int:
        n, heads, length, width = query
        return 2 * 2 * n * heads * length * key[2] * width

    def backward(grad: Any, query: Any, key: Any, *args: Any, **_: Any) -> int:
        n, heads, length, width = query
        return 5 * 2 * n * heads * length * key[2] * width

    for operator, formula in (
        (aten._scaled_dot_product_flash_attention_for_cpu, forward),
        (aten._scaled_dot_product_flash_attention_for_cpu_backward, backward),
    ):
        if operator not in flop_registry:
            register_flop_formula(operator)(formula)


class Operators:
    """Counts inside the kernels' walks what the mode around them does not see, because a custom operator hides what it does.

    Args:
        around: the mode of the whole run.
    """

    def __init__(self, around: FlopCounterMode) -> None:
        from aer_lightning.kernels import walk

        self.flops, self.around = 0, around
        walk.forward, walk.backward = self._counting(walk.forward), self._counting(walk.backward)

    def _counting(self, function: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            before = self.around.get_total_flops()
            with FlopCounterMode(display=False) as counter:
                out = function(*args, **kwargs)
            self.flops += counter.get_total_flops() - (self.around.get_total_flops() - before)
            return out

        return run


def work(args: argparse.Namespace) -> dict[str, Any]:
    """One rollout and its optimizer steps on this rank; what was counted."""
    import lightning.pytorch as pl
    import torch.distributed as dist

    from aer_lightning.data.datamodule import RolloutDataModule
    from aer_lightning.data.engines.base import Completion
    from aer_lightning.data.prompts.base import Prompt
    from aer_lightning.data.rewards.base import Grade, Outcome
    from aer_lightning.modules.network import PolicyNetwork
    from aer_lightning.modules.policy import PolicyModule

    lengths = draw_lengths(args)
    calls: Counter[str] = Counter()
    for name in COLLECTIVES:
        real = getattr(dist, name)
        setattr(dist, name, lambda *a, real=real, name=name, **k: (calls.update([name]), real(*a, **k))[1])

    class Grader:
        isolated = False

        def check_gold(self, answer: Any) -> None:
            return None

        def grade(self, completion: str, answer: Any) -> Grade:
            return Grade(Outcome.CORRECT if len(completion) % 2 else Outcome.WRONG)

    class Prompts:
        name, labels, grader = "lengths", ("",), Grader()

        def load(self) -> None:
            pass

        def __len__(self) -> int:
            return sys.maxsize

        def __getitem__(self, i: int) -> Prompt:
            return Prompt(str(i), "".join(random.Random(i).choices("0123456789", k=PROMPT)), "1")

    class Scripted:
        """Completions of the drawn lengths; the place of a request is that of its prompt among this rank's."""

        weight_version, weight_dtype = -1, torch.float32
        needs_weights = False
        synced_checksums: ClassVar[dict[str, str]] = {}

        def start(self, *_: Any, **__: Any) -> None:
            pass

        def sync_weights(self, named_weights: Any, version: int) -> None:
            for _ in named_weights:
                pass
            self.weight_version = version

        def generate(self, requests: Any, sampling: Any) -> list[Completion]:
            rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
            out = []
            for i in range(len(requests)):
                prompt, sample = divmod(i, args.responses)
                n = lengths[(rank + world * prompt) * args.responses + sample]
                tokens = random.Random((rank + world * prompt) * args.responses + sample).choices(range(3, 20), k=n)
                out.append(Completion(tokens, [0.0] * n, "stop"))
            return out

        def stream(self, requests: Any, sampling: Any) -> Iterator[tuple[int, Completion]]:
            yield from enumerate(self.generate(requests, sampling))

        def checksums(self, names: Any) -> dict[str, str]:
            return {}

        def sleep(self) -> None:
            pass

        def wake(self) -> None:
            pass

        def close(self) -> None:
            pass

    counted: Counter[str] = Counter()
    real_score = PolicyNetwork.score

    def score(self: Any, pack: Any, *options: Any) -> Any:
        if len(pack.targets):
            counted["all"] += len(pack.input_ids)
            counted["training"] += len(pack.input_ids) * torch.is_grad_enabled()
            counted["whole training" if torch.is_grad_enabled() else "whole scoring"] += sum(pack.lengths) + len(pack)
        return real_score(self, pack, *options)

    PolicyNetwork.score = score  # type: ignore[method-assign]
    attention_formulas()
    counter = FlopCounterMode(display=False)
    kernels = Operators(counter)
    with tempfile.TemporaryDirectory() as folder:
        build_model(Path(folder))
        data = RolloutDataModule(
            prompts=Prompts(),  # type: ignore[arg-type]
            engine=Scripted(),  # type: ignore[arg-type]
            prompts_per_rollout=args.prompts,
            responses_per_prompt=args.responses,
            optimizer_steps_per_rollout=args.steps,
            tokens_per_micro_batch=args.tokens,
            rollouts_per_epoch=1,
            max_prompt_tokens=PROMPT,
            max_new_tokens=args.max,
            max_mismatch=1e9,
            seed=args.seed,
        )
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=args.ranks,
            strategy="ddp" if args.ranks > 1 else "auto",
            max_epochs=1,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            **quiet,  # type: ignore[arg-type]
        )
        rollouts: list[Any] = []
        real_collect = data.collect
        data.collect = lambda: rollouts.append(real_collect()) or rollouts[-1]  # type: ignore[method-assign, func-returns-value]
        with counter:
            trainer.fit(PolicyModule(pretrained=folder), data)
        stats = rollouts[0].info.stats
        return {
            "flops": counter.get_total_flops() + kernels.flops,
            "tokens": counted["training"],
            "whole_tokens": counted["whole training"],
            "whole_scored": counted["whole scoring"],
            "scored_tokens": counted["all"] - counted["training"],
            "packs": int(stats["packs"]),
            "padding_share": stats["padding_share"],
            "collectives": dict(calls),
        }


def gathered(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The counts of every rank."""
    if args.ranks == 1:
        yield work(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        launch = ["-m", "torch.distributed.run", f"--nproc_per_node={args.ranks}", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
        # by the environment: torchrun takes --max for its own
        environment = os.environ | {ARGUMENTS: json.dumps(vars(args) | {"worker": folder})}
        subprocess.run([sys.executable, *launch, __file__], check=True, capture_output=True, env=environment)
        for path in sorted(Path(folder).glob("*.json")):
            yield json.loads(path.read_text())


def report(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of the page."""
    lengths = draw_lengths(args)
    ranks = list(gathered(args))
    names = ("tokens", "scored_tokens", "whole_tokens", "whole_scored")
    trained, scored, whole, whole_scored = (sum(r[name] for r in ranks) for name in names)
    executed, ideal = sum(r["flops"] for r in ranks), ideal_flops(lengths, rows=(trained, scored))
    return {
        "executed": executed,
        "ideal": ideal,
        "ratio": executed / ideal,
        "padding_share": ranks[0]["padding_share"],
        "packs": ranks[0]["packs"],
        "scored_share": whole_scored / whole,
        "tokens": trained,
        "shared_share": 1 - trained / whole,
        "sequences": len(lengths),
        "optimizer_steps": args.steps,
        "ranks": args.ranks,
        "rank_balance": max(r["tokens"] for r in ranks) * len(ranks) / trained,
        "collectives": ranks[0]["collectives"],
        "equal_collectives": all(r["collectives"] == ranks[0]["collectives"] for r in ranks),
        "former_ratio": former_flops(lengths) / ideal,
    }


def main(argv: list[str] | None = None) -> int:
    """Count, and print a line for each figure or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--lengths", choices=["lognormal", "equal"], default="lognormal")
    parser.add_argument("--mean", type=float, default=2000, help="mean response length, tokens")
    parser.add_argument("--sigma", type=float, default=0.9, help="of the logarithm")
    parser.add_argument("--max", type=int, default=8192, help="longest response, tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--responses", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1, help="optimizer steps per rollout")
    parser.add_argument("--tokens", type=int, default=16384, help="tokens_per_micro_batch")
    parser.add_argument("--ranks", type=int, default=1, help="processes (gloo, DDP)")
    args = argparse.Namespace(**json.loads(os.environ[ARGUMENTS])) if ARGUMENTS in os.environ else parser.parse_args(argv)
    warnings.simplefilter("ignore")
    import logging

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if ARGUMENTS in os.environ:
        (Path(args.worker) / f"{os.environ['RANK']}.json").write_text(json.dumps(work(args)))
        return 0
    figures = report(args)
    if args.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<18}{value:.4f}" if isinstance(value, float) and abs(value) < 1e6 else f"{name:<18}{value}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

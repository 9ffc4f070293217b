"""Makes the tiny Countdown model that ships with the package, and measures it: ``python -m aer_lightning.tiny_model``.

A Qwen3-shaped model of 1.06M parameters with a character tokenizer is trained, supervised, on random expressions labelled with
their own value, and stopped early: it knows how an answer looks and is often right, so that reinforcement learning has
something to reward and room to improve. Only problems of the training split are used.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from aer_lightning.assets import COUNTDOWN_TINY, asset
from aer_lightning.data.prompts.base import Prompt
from aer_lightning.data.prompts.countdown import CountdownPrompts
from aer_lightning.data.rewards.base import Outcome
from aer_lightning.metrics.pass_at_k import pass_at_k

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3Config

SPECIAL = ("<pad>", "<eos>", "<unk>")
CHARACTERS = "0123456789+-*/()=: "
MAX_ANSWER = 26  # tokens an answer may have, the end token included
IGNORE = -100  # label of a token without loss
GROUP = 16  # samples in a group


@dataclass(frozen=True)
class Recipe:
    """How the shipped model is trained.

    Attributes:
        steps: optimizer steps.
        batch: problems in each.
        lr: peak learning rate of AdamW; 30 steps of linear warm-up, then a linear decay to a tenth.
        seed: seed of the weights and of the problems.
        products: share of the problems with ``*`` or ``/`` in their solution that is shown. A small one makes a policy that could multiply
            but hardly ever does, so that what it can reach depends on exploration.
    """

    steps: int = 350
    batch: int = 256
    lr: float = 2e-3
    seed: int = 0
    products: float = 1.0


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Character tokenizer in Hugging Face format: 22 ids, no token in front of a text, text comes back unchanged."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *CHARACTERS))}
    # BPE without merges is one token a character, white space included.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=128,
        clean_up_tokenization_spaces=False,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    """Qwen3 with 4 layers of width 128. Heads have 64 channels, which every attention backend of vLLM can do."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=432,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


def training_batches(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """For each step its batch in three parts by length, against padding: (ids [B, T], labels [B, T]), padded on the right.

    Labels are set on the answer and its end token alone.
    """
    source = CountdownPrompts("train", seed=recipe.seed)
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    shown = _shown(source, recipe)
    for _ in range(recipe.steps):
        rows: list[tuple[list[int], int]] = []
        for prompt in islice(shown, recipe.batch):
            question, answer = tokenizer.encode(prompt.text), tokenizer.encode(prompt.extra["solution"])
            rows.append((question + answer + [eos], len(question)))
        rows.sort(key=lambda row: len(row[0]))
        yield [_collate(rows[part * len(rows) // 3 : (part + 1) * len(rows) // 3], pad) for part in range(3)]


def _shown(source: CountdownPrompts, recipe: Recipe) -> Iterator[Prompt]:
    """The problems in their order, without those that ``products`` leaves out."""
    rng = random.Random(recipe.seed)
    for index in count():
        prompt = source[index]
        if recipe.products >= 1 or not {"*", "/"} & set(prompt.extra["solution"]) or rng.random() < recipe.products:
            yield prompt


def _collate(rows: list[tuple[list[int], int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(row) for row, _ in rows)
    ids = torch.full((len(rows), width), pad)
    labels = torch.full((len(rows), width), IGNORE)
    for i, (row, start) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        labels[i, start : len(row)] = ids[i, start : len(row)]
    return ids, labels


def train(recipe: Recipe, log_every: int = 50) -> tuple[Any, PreTrainedTokenizerFast]:
    """Train a model by ``recipe`` on the CPU, in fp32. Returns it with its tokenizer."""
    from transformers import Qwen3ForCausalLM

    tokenizer = build_tokenizer()
    torch.manual_seed(recipe.seed)
    model = Qwen3ForCausalLM(build_config(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.95), weight_decay=0.01)

    def factor(step: int) -> float:
        return min((step + 1) / 30, 1 - 0.9 * step / recipe.steps)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    start = time.perf_counter()
    for step, parts in enumerate(training_batches(tokenizer, recipe), 1):
        tokens = sum(int((labels != IGNORE).sum()) for _, labels in parts)
        loss = 0.0
        optimizer.zero_grad()
        for ids, labels in parts:
            # Padding is on the right of a causal model, so no attention mask is needed.
            logits = model(input_ids=ids).logits[:, :-1]
            total = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="sum")
            (total / tokens).backward()
            loss += total.item() / tokens
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % log_every == 0 or step == recipe.steps:
            print(f"step {step:4d}  loss {loss:.3f} nat  {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return model.eval(), tokenizer


@dataclass
class Row:
    """Measured on the problems of one difficulty (or all). Shares lie in [0, 1]; entropy in nat a token; length in tokens."""

    label: str
    problems: int
    pass_1: float
    pass_8: float
    pass_16: float
    mixed: float
    unparsed: float
    entropy: float
    length: float


@torch.no_grad()
def sample_answers(model: Any, tokenizer: Any, prompts: Sequence[str], n: int) -> tuple[list[list[str]], torch.Tensor, torch.Tensor]:
    """Draw ``n`` answers a prompt at temperature 1 with the global torch RNG.

    Returns:
        The answers [P][n]; the sum of token entropies in nat [P, n]; the number of tokens, the end token included, [P, n].
    """
    inputs = tokenizer([text for text in prompts for _ in range(n)], return_tensors="pt", padding=True, return_token_type_ids=False)
    out = model.generate(
        **inputs,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=MAX_ANSWER,
        output_logits=True,
        return_dict_in_generate=True,
    )
    ids = out.sequences[:, inputs["input_ids"].shape[1] :]
    ended = (ids == tokenizer.eos_token_id).long().cumsum(1)
    alive = (ended - (ids == tokenizer.eos_token_id).long()) == 0  # up to the first end token
    entropy = torch.stack([torch.distributions.Categorical(logits=step.float()).entropy() for step in out.logits], 1) * alive
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    shape = (len(prompts), n)
    return [texts[i * n : (i + 1) * n] for i in range(len(prompts))], entropy.sum(1).view(shape), alive.sum(1).view(shape)


def measure(model: Any, tokenizer: Any, problems: int = 192, n: int = 64, seed: int = 0, batch: int = 16) -> list[Row]:
    """Sample ``n`` answers to each of ``problems`` validation problems and grade them; one row a difficulty and one for all.

    ``mixed`` is the share of groups of 16 samples with both right and wrong answers: only those have a gradient in GRPO.
    """
    source = CountdownPrompts("validation", size=problems, seed=seed)
    torch.manual_seed(seed)
    prompts = [source[i] for i in range(problems)]
    correct, unparsed, entropy, length = (torch.zeros(problems, n) for _ in range(4))
    for start in range(0, problems, batch):
        chunk = prompts[start : start + batch]
        texts, chunk_entropy, chunk_length = sample_answers(model, tokenizer, [p.text or "" for p in chunk], n)
        entropy[start : start + len(chunk)], length[start : start + len(chunk)] = chunk_entropy, chunk_length
        for i, (prompt, answers) in enumerate(zip(chunk, texts, strict=True), start):
            outcomes = [source.grader.grade(answer, prompt.answer).outcome for answer in answers]
            correct[i] = torch.tensor([outcome is Outcome.CORRECT for outcome in outcomes])
            unparsed[i] = torch.tensor([outcome is Outcome.UNPARSED for outcome in outcomes])
    rows = []
    for label in (*source.labels, "all"):
        chosen = torch.tensor([label in ("all", prompt.label) for prompt in prompts])
        right = correct[chosen]
        counts, samples = right.sum(1).long(), torch.full((len(right),), n)
        group_means = right.view(len(right), n // GROUP, GROUP).mean(2)
        rows.append(
            Row(
                label=label,
                problems=len(right),
                pass_1=pass_at_k(counts, samples, 1).item(),
                pass_8=pass_at_k(counts, samples, 8).item(),
                pass_16=pass_at_k(counts, samples, GROUP).item(),
                mixed=((group_means > 0) & (group_means < 1)).float().mean().item(),
                unparsed=unparsed[chosen].mean().item(),
                entropy=(entropy[chosen].sum() / length[chosen].sum()).item(),
                length=length[chosen].mean().item(),
            )
        )
    return rows


def format_table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| problems | pass@1 | pass@8 | pass@16 | mixed groups of 16 | unparsed | entropy (nat/token) | length (tokens) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        shares = f"{r.pass_1:.3f} | {r.pass_8:.3f} | {r.pass_16:.3f} | {r.mixed:.2f} | {r.unparsed:.3f}"
        lines.append(f"| {r.label} ({r.problems}) | {shares} | {r.entropy:.3f} | {r.length:.1f} |")
    return "\n".join(lines)


def write_card(folder: Path, model: Any, recipe: Recipe, rows: Sequence[Row], n: int) -> None:
    """Write the model card, README.md, with the measured table."""
    source, config = CountdownPrompts(), model.config
    card = (
        asset("countdown_tiny_card.md")
        .read_text(encoding="utf-8")
        .format(
            parameters=sum(p.numel() for p in model.parameters()),
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            vocabulary=config.vocab_size,
            context=config.max_position_embeddings,
            max_number=source.max_number,
            max_target=source.max_target,
            n=n,
            problems=rows[-1].problems,
            table=format_table(rows),
            **asdict(recipe),
        )
    )
    if recipe.products < 1:
        card += f"\nOf the problems with `*` or `/` in their solution only {recipe.products:.0%} were shown.\n"
    (folder / "README.md").write_text(card, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    recipe = Recipe()
    parser = argparse.ArgumentParser(prog="python -m aer_lightning.tiny_model", description="Make and measure the tiny Countdown model.")
    parser.add_argument("--out", type=Path, default=asset(COUNTDOWN_TINY), help="folder of the model (default: the shipped one)")
    parser.add_argument("--steps", type=int, default=recipe.steps, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=recipe.seed, help="seed of weights and problems (default: %(default)s)")
    parser.add_argument(
        "--products", type=float, default=recipe.products, help="share of problems with * or / shown (default: %(default)s)"
    )
    parser.add_argument("--problems", type=int, default=192, help="validation problems to measure on (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=64, help="samples of each, a multiple of 16 (default: %(default)s)")
    parser.add_argument("--measure-only", action="store_true", help="measure the model in --out and change nothing")
    args = parser.parse_args(argv)
    if args.steps < 1:
        parser.error(f"--steps must be at least 1, not {args.steps}")
    if not 0 <= args.products <= 1:
        parser.error(f"--products must be a share from 0 to 1, not {args.products}")
    if args.samples < GROUP or args.samples % GROUP:
        parser.error(f"--samples must be a multiple of {GROUP}, not {args.samples}")
    torch.set_num_threads(1)  # the order of sums, and so the weights, depends on the number of threads
    if args.measure_only:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if not (args.out / "config.json").is_file():
            parser.error(f"--out: {args.out} holds no model")
        model, tokenizer = AutoModelForCausalLM.from_pretrained(args.out), AutoTokenizer.from_pretrained(args.out)
        print(format_table(measure(model, tokenizer, args.problems, args.samples)))
        return 0
    recipe = Recipe(steps=args.steps, seed=args.seed, products=args.products)
    model, tokenizer = train(recipe)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    for file in args.out.iterdir():
        file.chmod(0o644)  # safetensors writes files that only their owner can read
    rows = measure(model, tokenizer, args.problems, args.samples)
    write_card(args.out, model, recipe, rows, args.samples)
    print(format_table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

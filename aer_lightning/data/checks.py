"""Options of the data that cannot be, and models that cannot hold what is asked for; found before anything is loaded."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aer_lightning.data.engines.folder import load_config
from aer_lightning.errors import ConfigError, DataError

WORKERS_PER_CORE = 16
LARGEST_SEED = 2**63 - 1
LONGEST_PROMPT = 512  # tokens, where nobody says


def check_counts(**counts: int) -> None:
    """Refuse a count of nothing.

    Raises:
        ConfigError: names the first option that is not positive.
    """
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"data.init_args.{name}: {value} is not positive")


def check_packs_hold(packs: Mapping[str, int | None], prompt: int, completion: int) -> None:
    """Refuse packs that do not hold the longest sequence.

    Args:
        packs: bounds on their tokens by option; None where an option is left out.
        prompt, completion: tokens at the most.

    Raises:
        ConfigError: names the option.
    """
    for name, tokens in packs.items():
        if tokens is not None and tokens < prompt + completion:
            raise ConfigError(
                f"data.init_args.{name}: {tokens} tokens do not hold the longest sequence, max_prompt_tokens {prompt} + "
                f"max_new_tokens {completion} = {prompt + completion}; raise it or lower those"
            )


def check_ks(ks: Sequence[int], samples: int) -> None:
    """Refuse a pass@k of more samples than there are; ``ks`` ascending.

    Raises:
        ConfigError: names the option.
    """
    if ks[0] < 1 or ks[-1] > samples:
        raise ConfigError(f"data.init_args.eval_ks: pass@k needs 1 <= k <= n; got {list(ks)} with eval_samples={samples}")


def check_names(names: Sequence[str]) -> None:
    """Refuse held-out sources of one name.

    Raises:
        ConfigError: names them.
    """
    if len(set(names)) < len(names):
        raise ConfigError(f"data.init_args.evaluation: two sources are named the same ({', '.join(names)}); give each its own name")


def mismatch_limit(first: float | None, exact: bool) -> float:
    """Nat of mean |d logp| above which the engine is taken not to run the policy's weights.

    Args:
        first: the first rollout's, which the two precisions make; None before it is measured.
        exact: whether both compute in fp32 on a CPU.

    Example:
        >>> mismatch_limit(None, exact=True), mismatch_limit(1e-6, exact=True), mismatch_limit(0.004, exact=False)
        (0.001, 1e-05, 0.016)
    """
    floor, ceiling = (1e-5, 1e-3) if exact else (2e-3, 0.1)
    return ceiling if first is None else min(ceiling, max(floor, 4 * first))


def check_sampling(temperature: float, eval_temperature: float | None, eval_top_p: float, eval_samples: int) -> None:
    """Refuse temperatures and a nucleus that are none, and several greedy samples of a prompt, which would all be the same.

    Raises:
        ConfigError: names the option.
    """
    if not (0 < temperature < math.inf):
        raise ConfigError(f"data.init_args.temperature: {temperature} is not positive; entropy needs a softmax, 1.0 is usual")
    if eval_temperature is not None and not (0 <= eval_temperature < math.inf):
        raise ConfigError(f"data.init_args.eval_temperature: {eval_temperature} is negative or no number; 0 is greedy")
    if not 0 < eval_top_p <= 1:
        raise ConfigError(f"data.init_args.eval_top_p: {eval_top_p} is not in (0, 1]; 1 keeps every token")
    if eval_temperature == 0 and eval_samples > 1:
        raise ConfigError(
            f"data.init_args.eval_samples: {eval_samples} greedy samples of a prompt are one and the same; give 1, or a temperature above 0"
        )


def check_verifier(workers: int, timeout: float) -> None:
    """Refuse a number of worker processes that this machine cannot start, and a time limit of nothing.

    Raises:
        ConfigError: names the option.
    """
    most = max(64, WORKERS_PER_CORE * (os.cpu_count() or 1))
    if not 1 <= workers <= most:
        raise ConfigError(f"data.init_args.verifier_workers: {workers} processes on {os.cpu_count()} cores; give 1 to {most}")
    if not 0 < timeout < math.inf:
        raise ConfigError(f"data.init_args.verifier_timeout: {timeout} is not a positive number of seconds")


def check_seed(seed: int | None) -> None:
    """Refuse a seed that no prompt's seed can be made of; None leaves it to the run's.

    Raises:
        ConfigError: names the option.
    """
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise ConfigError(f"data.init_args.seed: {seed} is not in 0..{LARGEST_SEED}")


def check_trainer(trainer: Any, steps: int, steps_per_epoch: int) -> None:
    """Refuse options of the Trainer that mean nothing here, or end a run, an epoch or a stretch before a validation inside a rollout.

    A rollout cut off would have moved the policy by a part of its optimizer steps, and its metrics would never be logged.

    Args:
        trainer: the Lightning Trainer whose options are looked at.
        steps: optimizer steps per rollout.
        steps_per_epoch: optimizer steps per epoch.

    Raises:
        ConfigError: names the option.
    """
    if trainer.gradient_clip_val is not None and not 0 <= trainer.gradient_clip_val < math.inf:
        raise ConfigError(f"trainer.gradient_clip_val: {trainer.gradient_clip_val} is no bound; give a number above 0, or null for none")
    if trainer.overfit_batches:
        raise ConfigError("trainer.overfit_batches: rollouts are drawn anew and cannot be repeated; leave it out")
    for name, unset in (("limit_train_batches", 1.0), ("val_check_interval", 1.0), ("max_steps", -1)):
        value: Any = getattr(trainer, name, unset)
        if value is None or (value == unset and isinstance(value, type(unset))):
            continue
        batches = int(value * steps_per_epoch) if isinstance(value, float) else value
        if not isinstance(batches, int) or batches < 0:
            continue
        if batches % steps or (batches == 0 and name == "limit_train_batches"):
            raise ConfigError(
                f"trainer.{name}: {value} is {batches} optimizer steps, which is not a whole number of rollouts of {steps} "
                f"(data.init_args.optimizer_steps_per_rollout); give a multiple of {steps}"
            )


def room_for_prompts(config: Any, max_new_tokens: int, tokens: int) -> int:
    """The longest prompt where none is given: 512 tokens, or what the model's positions and a pack leave beside a completion; at least 1.

    Args:
        config: the model's transformers configuration.
        max_new_tokens: longest completion.
        tokens: of a pack.

    Example: a model of 128 positions, completions of 26 tokens and packs of 8,192 leave prompts of 102 tokens.
    """
    positions = _positions(config.get_text_config())
    return max(1, min(LONGEST_PROMPT, (positions or tokens) - max_new_tokens, tokens - max_new_tokens))


def check_model_holds(folder: Path, tokenizer: Any, max_prompt_tokens: int, max_new_tokens: int, trust_remote_code: bool = False) -> None:
    """Refuse a model with fewer positions than a sequence may have tokens, or fewer rows in its head than its tokenizer has ids.

    Tokens that were added and mark something special may lie beyond the head, as Gemma's image token does: no prompt makes them.

    Args:
        folder: of the model.
        tokenizer: of the model.
        max_prompt_tokens: longest prompt.
        max_new_tokens: longest completion.
        trust_remote_code: run the code that comes with the model.

    Raises:
        ConfigError: too few positions.
        DataError: the tokenizer has ids that the model has no row for.
    """
    config = load_config(folder, trust_remote_code).get_text_config()
    positions, longest = _positions(config), max_prompt_tokens + max_new_tokens
    if positions is not None and positions < longest:
        raise ConfigError(
            f"data.init_args.max_new_tokens: max_prompt_tokens {max_prompt_tokens} + max_new_tokens {max_new_tokens} = {longest} tokens, "
            f"but {folder} has {positions} positions; lower one of them"
        )
    rows = getattr(config, "vocab_size", None)
    if not isinstance(rows, int) or not hasattr(tokenizer, "get_vocab"):
        return
    special = set(_special_ids(tokenizer))
    beyond = [(i, token) for token, i in tokenizer.get_vocab().items() if i >= rows and i not in special]
    beyond += [(i, name) for name in ("eos_token_id", "pad_token_id") if (i := getattr(tokenizer, name, None)) is not None and i >= rows]
    if beyond:
        i, token = max(beyond)
        raise DataError(
            f"model.init_args.pretrained: the tokenizer of {folder} has the id {i} ({token!r}), but the model's head has {rows} rows "
            "(vocab_size in config.json); save the tokenizer that the model was trained with"
        )


def _special_ids(tokenizer: Any) -> Sequence[int]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return [i for i, token in added.items() if getattr(token, "special", False)]


def _positions(config: Any) -> int | None:
    """Positions that a model can tell apart, those won by scaling its rotations included; None where it has no limit."""
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int):
        return None
    scaling = getattr(config, "rope_scaling", None) or getattr(config, "rope_parameters", None) or {}
    factor = scaling.get("factor") if isinstance(scaling, dict) else None
    original = scaling.get("original_max_position_embeddings", positions) if isinstance(scaling, dict) else positions
    return max(positions, int((original or positions) * factor)) if isinstance(factor, int | float) else positions

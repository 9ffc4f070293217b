"""The longest prompt where nobody says: what the model and the packs leave beside a completion."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers import Qwen3Config

from aer_lightning.data.checks import LONGEST_PROMPT, check_seed, room_for_prompts
from aer_lightning.data.datamodule import RolloutDataModule
from aer_lightning.data.engines import TransformersEngine
from aer_lightning.data.prompts import CountdownPrompts
from aer_lightning.errors import ConfigError


@pytest.mark.parametrize(
    ("positions", "max_new", "tokens", "room"),
    [(128, 26, 8192, 102), (40960, 1024, 16384, LONGEST_PROMPT), (40960, 1024, 1200, 176), (128, 200, 8192, 1)],
)
def test_prompts_have_what_is_left(positions, max_new, tokens, room):
    assert room_for_prompts(Qwen3Config(max_position_embeddings=positions), max_new, tokens) == room


def test_packs_of_scoring_have_to_hold_the_prompts_too(random_model):
    data = RolloutDataModule(engine=TransformersEngine(), max_new_tokens=20, tokens_per_micro_batch=8192, scoring_tokens_per_micro_batch=50)
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(model_folder=lambda: random_model), world_size=1)
    data.evaluation = [CountdownPrompts(split="validation", size=3)]
    data.setup("validate")
    assert data.max_prompt_tokens == 30


def test_packs_have_to_hold_a_completion_in_any_case():
    with pytest.raises(ConfigError, match=r"tokens_per_micro_batch: 32 tokens .* max_prompt_tokens 1 \+ max_new_tokens 32 = 33"):
        RolloutDataModule(engine=TransformersEngine(), max_new_tokens=32, tokens_per_micro_batch=32)
    RolloutDataModule(engine=TransformersEngine(), max_new_tokens=32, tokens_per_micro_batch=64)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_the_generators_do_not_take(seed):
    with pytest.raises(ConfigError, match=f"data.init_args.seed: {seed} is not in"):
        check_seed(seed)


def test_a_seed_at_the_bounds_or_left_out():
    for seed in (None, 0, 2**63 - 1):
        check_seed(seed)

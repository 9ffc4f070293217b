import numpy as np
import pytest
import torch
from engine_helpers import assert_samples_fit
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from aer_lightning.data.engines.sampling import draw, processed_logprobs, uniforms


def splitmix64(state: int) -> int:
    """The published algorithm, in Python integers: the output for the state after the increment."""
    mask = (1 << 64) - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_reference_is_the_published_generator():
    assert splitmix64(0) == 0xE220A8397B1DCDAF


def test_uniforms_are_splitmix64_of_seed_and_step():
    golden, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1
    seeds, steps = [0, 1, 2**62 + 12345, 2**63 - 1], [0, 1, 7, 8191]
    got = uniforms(torch.tensor(seeds).repeat_interleave(4), torch.tensor(steps).repeat(4)).tolist()
    expected = [(splitmix64((splitmix64(seed) + step * golden) & mask) >> 12) / 2**52 for seed in seeds for step in steps]
    assert got == expected


def test_uniforms_fill_the_unit_interval_and_differ_between_neighbours():
    seeds = torch.arange(20_000)
    first, second = uniforms(seeds, torch.zeros_like(seeds)), uniforms(seeds, torch.ones_like(seeds))
    for values in (first, second, uniforms(torch.zeros_like(seeds), seeds)):
        assert values.min() >= 0 and values.max() < 1
        assert_samples_fit((values * 64).long().tolist(), torch.full((64,), 1 / 64))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.03


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), [(1.0, 1.0, 0), (0.6, 1.0, 0), (1.3, 0.8, 0), (0.9, 1.0, 5), (0.7, 0.9, 6)])
def test_processed_logprobs_equal_hugging_face_warpers(temperature, top_p, top_k):
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(0)) * 3
    expected = TemperatureLogitsWarper(temperature)(None, logits) if temperature != 1 else logits
    expected = TopKLogitsWarper(top_k)(None, expected) if top_k else expected
    expected = TopPLogitsWarper(top_p)(None, expected) if top_p < 1 else expected
    got = processed_logprobs(logits, temperature, top_p, top_k)
    torch.testing.assert_close(got, expected.log_softmax(-1))
    assert got.isinf().any() == (top_p < 1 or top_k > 0)


def test_processed_logprobs_of_half_precision_logits_are_float32():
    logits = torch.randn(4, 9, dtype=torch.bfloat16)
    torch.testing.assert_close(processed_logprobs(logits, 0.5), (logits.float() / 0.5).log_softmax(-1), atol=0, rtol=0)


def test_nucleus_keeps_the_most_probable_token_whatever_top_p():
    logits = torch.tensor([[0.0, 3.0, 1.0]])
    assert processed_logprobs(logits, 1.0, top_p=1e-6).tolist() == [[-torch.inf, 0.0, -torch.inf]]


def test_greedy_log_probabilities_are_those_of_the_plain_softmax():
    logits = torch.randn(3, 7)
    torch.testing.assert_close(processed_logprobs(logits, 0.0, top_p=0.1, top_k=1), logits.log_softmax(-1))


def test_draw_inverts_the_cumulative_distribution():
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]])
    last = 1 - 2.0**-52
    points = {0.0: 1, 0.2499: 1, 0.2501: 3, 0.7499: 3, 0.7501: 4, last: 4}
    u = torch.tensor(list(points), dtype=torch.float64)
    assert draw(probabilities.log().expand(len(points), -1), u).tolist() == list(points.values())


def test_draw_follows_the_distribution_of_a_large_vocabulary():
    logprobs = (torch.randn(1, 500, generator=torch.Generator().manual_seed(3)) * 2).log_softmax(-1)
    seeds = torch.arange(40_000)
    tokens = draw(logprobs.expand(len(seeds), -1), uniforms(seeds, torch.zeros_like(seeds)))
    assert_samples_fit(tokens.tolist(), logprobs[0].exp())

import json
import random
import shutil

import numpy as np
import pytest
import torch
from engine_helpers import END, assert_faithful, assert_samples_fit, make_requests, shake, write_model

from aer_lightning.data.engines import TransformersEngine
from aer_lightning.data.engines.base import Engine, GenerationRequest, SamplingParams
from aer_lightning.data.engines.row_cache import RowCache
from aer_lightning.errors import ConfigError, DataError

CPU = torch.device("cpu")


def start(folder, model=None, max_model_len=128, **options) -> TransformersEngine:
    engine = TransformersEngine(**options)
    engine.start(folder, max_model_len=max_model_len, device=CPU, seed=0)
    if model is not None:
        engine.sync_weights(model.state_dict().items(), version=0)
    return engine


@pytest.mark.parametrize(("kind", "tied"), [("qwen3", False), ("qwen3", True), ("llama", False), ("llama", True), ("gemma3", True)])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_the_models(folders, kind, tied, temperature):
    folder, model = folders(kind, tied)
    engine = start(folder, model)
    assert isinstance(engine, Engine)
    requests = make_requests(6, 4)
    assert_faithful(model, requests, engine.generate(requests, SamplingParams(temperature, 20)), temperature, 20)


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gemma3"])
@pytest.mark.parametrize(("max_batch_size", "max_prefill_tokens"), [(1, 16384), (5, 1), (7, 30), (24, 16384)])
def test_a_sample_does_not_depend_on_what_it_was_batched_with(folders, kind, max_batch_size, max_prefill_tokens):
    folder, model = folders(kind)
    requests = make_requests(8, 5)
    sampling = SamplingParams(1.0, 60)
    alone = start(folder, model, max_batch_size=64).generate(requests, sampling)
    order = list(range(len(requests)))
    random.Random(max_batch_size).shuffle(order)
    engine = start(folder, model, max_batch_size=max_batch_size, max_prefill_tokens=max_prefill_tokens)
    shuffled = engine.generate([requests[index] for index in order], sampling)
    for place, index in enumerate(order):
        assert shuffled[place].token_ids == alone[index].token_ids
        assert shuffled[place].finish_reason == alone[index].finish_reason
        assert shuffled[place].logprobs == pytest.approx(alone[index].logprobs, abs=1e-5)


@pytest.mark.parametrize("max_batch_size", [3, 64])
def test_a_stream_hands_out_the_same_completions_as_they_end(folders, max_batch_size):
    folder, model = folders("qwen3")
    requests, sampling = make_requests(6, 5), SamplingParams(1.0, 20)
    engine = start(folder, model, max_batch_size=max_batch_size)
    expected = engine.generate(requests, sampling)
    streamed = []
    for index, completion in engine.stream(requests, sampling):
        assert not torch.is_inference_mode_enabled(), "the consumer is not the engine"
        streamed.append((index, completion))
        if len(streamed) == 3:  # a call within another
            again = engine.generate(requests[:2], sampling)
            assert [c.token_ids for c in again] == [c.token_ids for c in expected[:2]]
    assert dict(streamed) == dict(enumerate(expected))
    if max_batch_size == 64:
        lengths = [len(completion.token_ids) for _, completion in streamed]
        assert lengths == sorted(lengths) and lengths[0] < lengths[-1]


def test_rows_that_come_and_go_for_long_keep_their_log_probabilities(folders, monkeypatch):
    # 3 rows serve 40 requests of up to 90 tokens: the buffers must both grow and shift
    shifts = []
    make_room = RowCache.make_room
    monkeypatch.setattr(RowCache, "make_room", lambda *args: shifts.append(make_room(*args)) or shifts[-1])
    folder, model = folders("qwen3")
    requests = make_requests(40, 1, shortest=1, longest=30)
    completions = start(folder, model, max_batch_size=3).generate(requests, SamplingParams(1.0, 90))
    assert_faithful(model, requests, completions, 1.0, 90)
    assert 0 in shifts and max(shifts) > 0


def test_prompts_of_one_length_need_no_mask_and_give_the_same(folders):
    folder, model = folders("llama")
    requests = make_requests(4, 6, shortest=7, longest=7)
    assert_faithful(model, requests, start(folder, model).generate(requests, SamplingParams(1.0, 12)), 1.0, 12)


def test_the_weights_of_the_last_sync_are_used(folders, tmp_path):
    folder, model = folders("qwen3")
    engine = start(folder, model)
    requests, sampling = make_requests(4, 4), SamplingParams(1.0, 16)
    before = engine.generate(requests, sampling)
    other = write_model(tmp_path, "qwen3")
    shake(other, 0.1, seed=5)
    engine.sync_weights(other.state_dict().items(), version=7)
    assert engine.weight_version == 7
    after = engine.generate(requests, sampling)
    assert_faithful(other, requests, after, 1.0, 16)
    assert [c.token_ids for c in after] != [c.token_ids for c in before]


def test_the_engine_owns_its_weights(folders, tmp_path):
    folder, _ = folders("qwen3")
    policy = write_model(tmp_path, "qwen3")
    engine = start(folder, policy)
    requests, sampling = make_requests(3, 3), SamplingParams(1.0, 8)
    before = engine.generate(requests, sampling)
    shake(policy, 1.0)
    assert engine.generate(requests, sampling) == before


def test_a_tied_head_may_be_absent_and_any_other_name_may_not(folders):
    folder, model = folders("qwen3", True)
    engine = start(folder)
    weights = dict(model.state_dict())
    weights.pop("lm_head.weight")
    engine.sync_weights(weights.items(), version=3)
    requests = make_requests(3, 3)
    assert_faithful(model, requests, engine.generate(requests, SamplingParams(1.0, 12)), 1.0, 12)
    norm = weights.pop("model.norm.weight")
    with pytest.raises(ConfigError, match=r"missing model\.norm\.weight"):
        engine.sync_weights(weights.items(), version=4)
    assert engine.weight_version == -1
    with pytest.raises(RuntimeError, match="before the first sync"):
        engine.generate(requests, SamplingParams(1.0, 12))
    with pytest.raises(ConfigError, match=r"unexpected name 'model\.norm\.scale'"):
        engine.sync_weights({**weights, "model.norm.scale": norm}.items(), version=4)
    with pytest.raises(ConfigError, match=r"model\.norm\.weight has shape \(3,\)"):
        engine.sync_weights({**weights, "model.norm.weight": norm[:3]}.items(), version=4)


def test_an_untied_head_may_not_be_absent(folders):
    folder, model = folders("qwen3")
    weights = dict(model.state_dict())
    weights.pop("lm_head.weight")
    with pytest.raises(ConfigError, match=r"missing lm_head\.weight"):
        start(folder).sync_weights(weights.items(), version=0)


def test_the_same_seed_gives_the_same_sample_and_another_seed_another(folders):
    folder, model = folders("llama")
    engine, sampling = start(folder, model), SamplingParams(1.0, 24)
    prompt = tuple(range(3, 12))
    first, second, again = engine.generate([GenerationRequest(prompt, seed) for seed in (11, 12, 11)], sampling)
    assert first == again
    assert first.token_ids != second.token_ids
    many = engine.generate([GenerationRequest(prompt, seed) for seed in range(50)], sampling)
    assert len({tuple(completion.token_ids) for completion in many}) > 40


def test_samples_follow_the_exact_distribution(folders):
    folder, model = folders("qwen3")
    prompt, temperature = (5, 9, 14), 0.8
    completions = start(folder, model).generate([GenerationRequest(prompt, seed) for seed in range(6000)], SamplingParams(temperature, 2))

    def exact(*ids: int) -> torch.Tensor:
        with torch.no_grad():
            return (model(input_ids=torch.tensor([ids])).logits[0, -1] / temperature).softmax(-1)

    firsts = [completion.token_ids[0] for completion in completions]
    assert_samples_fit(firsts, exact(*prompt))
    likely = max((set(firsts) - {END}), key=firsts.count)
    assert_samples_fit([c.token_ids[1] for c in completions if c.token_ids[0] == likely], exact(*prompt, likely))


def test_greedy_equals_hugging_face_generate(folders):
    folder, model = folders("llama")
    requests = make_requests(8, 1)
    for request, completion in zip(requests, start(folder, model).generate(requests, SamplingParams(0.0, 15)), strict=True):
        ids = torch.tensor([request.prompt_ids])
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=15)[0, ids.shape[1] :]
        assert completion.token_ids == expected.tolist()


def test_top_k_and_top_p_limit_the_candidates(folders):
    folder, model = folders("qwen3")
    engine, prompt = start(folder, model), (4, 8, 15)
    requests = [GenerationRequest(prompt, seed) for seed in range(400)]
    with torch.no_grad():
        probabilities = model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)
    best = probabilities.argsort(descending=True).tolist()
    two = engine.generate(requests, SamplingParams(1.0, 1, top_k=2))
    assert {completion.token_ids[0] for completion in two} == set(best[:2])
    share = float(probabilities[best[0]] / probabilities[best[:2]].sum())
    assert np.exp(next(c.logprobs[0] for c in two if c.token_ids[0] == best[0])) == pytest.approx(share, abs=1e-5)
    nucleus = engine.generate(requests, SamplingParams(1.0, 1, top_p=float(probabilities[best[:3]].sum()) - 1e-3))
    assert {completion.token_ids[0] for completion in nucleus} == set(best[:3])


def test_global_random_numbers_and_default_dtype_are_left_alone(folders):
    folder, model = folders("qwen3")
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), torch.get_default_dtype())
    engine = start(folder, model)
    engine.generate(make_requests(2, 2), SamplingParams(1.0, 8))
    engine.sleep()
    engine.close()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_default_dtype()) == before[1:]


def test_dtype_is_the_engines_own(folders):
    folder, model = folders("qwen3")
    requests, sampling = make_requests(4, 4), SamplingParams(1.0, 10)
    exact, coarse = start(folder, model), start(folder, model, dtype="bfloat16")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = exact.generate(requests, sampling)
    assert inside == exact.generate(requests, sampling)
    rough = coarse.generate(requests, sampling)
    assert_faithful(model, requests, rough, 1.0, 10, tolerance=0.2)
    assert [c.logprobs for c in rough] != [c.logprobs for c in inside]


def test_every_end_token_ends(folders, tmp_path):
    source, model = folders("qwen3")
    folder = tmp_path / "model"
    shutil.copytree(source, folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**generation, "eos_token_id": [7, 8]}))
    requests = make_requests(10, 10)
    lasts = {c.token_ids[-1] for c in start(folder, model).generate(requests, SamplingParams(1.0, 40)) if c.finish_reason == "stop"}
    assert lasts == {END, 7, 8}, "two of the generation configuration, one of the tokenizer"


def test_no_requests_no_completions(folders):
    folder, model = folders("qwen3")
    assert start(folder, model).generate([], SamplingParams(1.0, 4)) == []


def test_what_cannot_be_generated_is_refused(folders, tmp_path):
    folder, model = folders("qwen3")
    engine = start(folder, model, max_model_len=16)
    with pytest.raises(ConfigError, match="a prompt of 9 tokens and max_new_tokens 8 exceed max_model_len 16"):
        engine.generate([GenerationRequest(tuple(range(2, 11)), 0)], SamplingParams(1.0, 8))
    with pytest.raises(ConfigError, match="no tokens"):
        engine.generate([GenerationRequest((), 0)], SamplingParams(1.0, 8))
    with pytest.raises(RuntimeError, match="before the first sync"):
        start(folder).generate(make_requests(1, 1), SamplingParams(1.0, 4))
    with pytest.raises(DataError, match=r"no config\.json"):
        start(tmp_path)


def test_a_model_with_other_layers_than_attention_is_refused(folders, tmp_path):
    source, _ = folders("qwen3")
    folder = tmp_path / "model"
    shutil.copytree(source, folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_next", "num_hidden_layers": 4}))
    with pytest.raises(ConfigError, match="linear_attention layers"):
        start(folder)


@pytest.mark.parametrize("option", [{"max_batch_size": 0}, {"max_prefill_tokens": 0}, {"dtype": "int8"}])
def test_impossible_options_are_refused(option):
    with pytest.raises(ConfigError, match=f"TransformersEngine.{next(iter(option))}"):
        TransformersEngine(**option)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_and_after_sleep(folders):
    folder, model = folders("qwen3")
    engine = TransformersEngine(dtype="float32")
    engine.start(folder, max_model_len=128, device=torch.device("cuda", 0), seed=0)
    engine.sync_weights(model.state_dict().items(), version=0)
    requests, sampling = make_requests(6, 4), SamplingParams(1.0, 20)
    awake = engine.generate(requests, sampling)
    assert_faithful(model, requests, awake, 1.0, 20, tolerance=1e-3)
    engine.sleep()
    assert engine.needs_weights
    engine.sync_weights(model.state_dict().items(), version=0)
    assert engine.generate(requests, sampling) == awake

import importlib.util
import logging
import os
import random
import shutil
import signal

import numpy as np
import pytest
import torch
from engine_helpers import END, assert_faithful, assert_samples_fit, forced_logprobs, make_requests, shake, write_model

from aer_lightning.data.engines import VLLMEngine
from aer_lightning.data.engines.base import Engine, GenerationRequest, SamplingParams
from aer_lightning.data.engines.checksum import checksum
from aer_lightning.errors import ConfigError

CPU = torch.device("cpu")
real = [pytest.mark.vllm, pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")]


@pytest.fixture
def without_vllm(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "vllm" else find_spec(name, *rest))


@pytest.fixture
def with_vllm(monkeypatch):
    """Options are checked before anything is imported, so that a package that is not there can be pretended."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: object() if name == "vllm" else find_spec(name, *rest))


def test_without_vllm_the_error_says_what_to_install(without_vllm):
    with pytest.raises(ConfigError, match=r"make venv.*aer-lightning\[vllm\].*--data\.engine TransformersEngine"):
        VLLMEngine()


@pytest.mark.parametrize(
    "option",
    [
        {"gpu_memory_utilization": 0.0},
        {"kv_cache_gib": 0.0},
        {"max_num_seqs": 0},
        {"dtype": "int8"},
        {"cpu_threads": 0},
        {"start_timeout": 0.0},
        {"step_timeout": -1.0},
        {"restarts": -1},
    ],
)
def test_impossible_options_are_refused(with_vllm, option):
    with pytest.raises(ConfigError, match=f"VLLMEngine.{next(iter(option))}"):
        VLLMEngine(**option)


def test_other_devices_are_refused(with_vllm, folders):
    with pytest.raises(ConfigError, match="not on mps"):
        VLLMEngine().start(folders("qwen3")[0], max_model_len=64, device=torch.device("mps"), seed=0)


def state_of_the_process() -> dict[str, object]:
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),
        "python": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "set_num_threads": torch.set_num_threads,
        "synchronize": torch.accelerator.synchronize,
        "environment": dict(os.environ),
        "interrupt": signal.getsignal(signal.SIGINT),
        "terminate": signal.getsignal(signal.SIGTERM),
        "logging": (logging.getLogger().level, list(logging.getLogger().handlers)),
        "group": torch.distributed.get_world_size(),
    }


@pytest.fixture(scope="module")
def engines(folders, tmp_path_factory):
    """(tied -> engine, state before, state after start): both started at once, as rank 1 of a process group of the trainer's."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        store = tmp_path_factory.mktemp("group") / "store"
        torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
        for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
            patch.setenv(name, value)
        before = state_of_the_process()
        # one with prefix caching and one without; enough sequences at once for more prompt tokens than a scheduling round takes
        made = {tied: VLLMEngine(max_num_seqs=128, enable_prefix_caching=tied) for tied in (False, True)}
        for tied, engine in made.items():
            engine.start(folders("qwen3", tied)[0], max_model_len=64, device=CPU, seed=3)
        for tied, engine in made.items():
            engine.sync_weights(folders("qwen3", tied)[1].state_dict().items(), version=0)
            engine.generate(make_requests(2, 2), SamplingParams(1.0, 4))
        yield made, before, state_of_the_process()
        for engine in made.values():
            engine.close()
            engine.close()
        torch.distributed.destroy_process_group()


@pytest.fixture
def synced(engines, folders):
    """A function tied -> (engine, model), the engine under the weights of the model."""

    def sync(tied: bool) -> tuple[VLLMEngine, torch.nn.Module]:
        engine, model = engines[0][tied], folders("qwen3", tied)[1]
        engine.sync_weights(model.state_dict().items(), version=1)
        return engine, model

    return sync


class TestRealEngine:
    pytestmark = real

    def test_the_trainers_process_is_left_as_it_was(self, engines):
        _, before, after = engines
        assert after == before

    @pytest.mark.parametrize("tied", [False, True])
    @pytest.mark.parametrize("temperature", [1.0, 0.6])
    def test_logprobs_are_the_models(self, synced, tied, temperature):
        engine, model = synced(tied)
        assert isinstance(engine, Engine)
        requests = make_requests(8, 5)
        assert_faithful(model, requests, engine.generate(requests, SamplingParams(temperature, 20)), temperature, 20)

    @pytest.mark.parametrize("tied", [False, True])
    def test_the_weights_of_the_last_sync_are_used(self, synced, tmp_path, tied):
        engine, _ = synced(tied)
        requests, sampling = make_requests(6, 4), SamplingParams(1.0, 16)
        engine.generate(requests, sampling)
        other = write_model(tmp_path, "qwen3", tied)
        for version in (2, 3):
            shake(other, 0.1, seed=version)
            weights = dict(other.state_dict())
            if tied:
                weights.pop("lm_head.weight")
            engine.sync_weights(weights.items(), version=version)
            assert engine.weight_version == version
            assert_faithful(other, requests, engine.generate(requests, sampling), 1.0, 16)

    def test_seeds_reproduce_and_differ(self, synced):
        engine, _ = synced(False)
        prompt, sampling = tuple(range(3, 12)), SamplingParams(1.0, 24)
        first, second, again = engine.generate([GenerationRequest(prompt, seed) for seed in (11, 12, 11)], sampling)
        assert first.token_ids == again.token_ids != second.token_ids
        many = engine.generate([GenerationRequest(prompt, seed) for seed in (2**63 - 1, 12, 5, 11)], sampling)
        assert [many[3].token_ids, many[1].token_ids] == [first.token_ids, second.token_ids]

    def test_samples_follow_the_exact_distribution(self, synced):
        engine, model = synced(False)
        prompt, temperature = (5, 9, 14), 0.8
        completions = engine.generate([GenerationRequest(prompt, seed) for seed in range(2000)], SamplingParams(temperature, 1))
        with torch.no_grad():
            exact = (model(input_ids=torch.tensor([prompt])).logits[0, -1] / temperature).softmax(-1)
        assert_samples_fit([completion.token_ids[0] for completion in completions], exact)

    def test_greedy_top_k_and_top_p(self, synced):
        engine, model = synced(False)
        prompt = (4, 8, 15)
        with torch.no_grad():
            probabilities = model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)
        best = probabilities.argsort(descending=True).tolist()
        requests = [GenerationRequest(prompt, seed) for seed in range(100)]
        greedy = engine.generate(requests[:1], SamplingParams(0.0, 6))[0]
        assert greedy.token_ids[0] == best[0]
        assert greedy.logprobs == pytest.approx(forced_logprobs(model, requests[0], greedy, 1.0).tolist(), abs=1e-4)
        two = engine.generate(requests, SamplingParams(1.0, 1, top_k=2))
        assert {completion.token_ids[0] for completion in two} == set(best[:2])
        share = float(probabilities[best[0]] / probabilities[best[:2]].sum())
        assert np.exp(next(c.logprobs[0] for c in two if c.token_ids[0] == best[0])) == pytest.approx(share, abs=1e-4)
        nucleus = engine.generate(requests, SamplingParams(1.0, 1, top_p=float(probabilities[best[:3]].sum()) - 1e-3))
        assert {completion.token_ids[0] for completion in nucleus} == set(best[:3])

    def test_completions_are_never_empty_and_keep_their_end_token(self, synced):
        engine, _ = synced(False)
        completions = engine.generate(make_requests(20, 10), SamplingParams(1.5, 12))
        assert any(completion.token_ids == [END] for completion in completions), "the test needs a completion that ends at once"
        assert all(completion.token_ids and len(completion.token_ids) == len(completion.logprobs) for completion in completions)

    @pytest.mark.parametrize("prefix_caching", [False, True])
    @pytest.mark.parametrize("sampling", [SamplingParams(1.0, 16), SamplingParams(0.8, 16, top_p=0.9), SamplingParams(0.0, 16)])
    def test_more_prompt_tokens_than_one_scheduling_round_takes(self, synced, prefix_caching, sampling):
        """Training samples from the whole softmax, evaluation from a nucleus or greedily; each sample is what it is alone."""
        engine, model = synced(prefix_caching)
        requests = make_requests(64, 2, shortest=40, longest=48)
        assert sum(len(request.prompt_ids) for request in requests) > 4096
        completions = engine.generate(requests, sampling)
        if sampling.top_p == 1:
            assert_faithful(model, requests, completions, sampling.temperature or 1.0, 16)
        for index in (0, 63, 127):
            alone = engine.generate([requests[index]], sampling)[0]
            assert alone.token_ids == completions[index].token_ids
            assert alone.logprobs == pytest.approx(completions[index].logprobs, abs=1e-4)

    def test_wrong_weights_are_refused_and_leave_the_engine_unsynced(self, synced):
        engine, model = synced(False)
        weights = dict(model.state_dict())
        weights.pop("model.norm.weight")
        with pytest.raises(ConfigError, match=r"missing model\.norm\.weight"):
            engine.sync_weights(weights.items(), version=9)
        assert engine.weight_version == -1
        with pytest.raises(RuntimeError, match="before the first sync"):
            engine.generate(make_requests(1, 1), SamplingParams(1.0, 4))

    @pytest.mark.parametrize("tied", [False, True])
    def test_every_served_weight_can_be_read_back(self, synced, tied):
        engine, model = synced(tied)
        weights = dict(model.state_dict())
        assert engine.checksums(weights) == {name: checksum(tensor, torch.float32) for name, tensor in weights.items()}

    def test_a_stream_hands_out_the_same_completions_as_they_end(self, synced):
        engine, _ = synced(False)
        requests, sampling = make_requests(8, 5), SamplingParams(1.0, 20)
        expected = engine.generate(requests, sampling)
        streamed = list(engine.stream(requests, sampling))
        assert dict(streamed) == dict(enumerate(expected))
        lengths = [len(completion.token_ids) for _, completion in streamed]
        assert lengths == sorted(lengths) and lengths[0] < lengths[-1], "in the order of their ends, where all start together"
        assert next(engine.stream(requests, sampling))[1].token_ids
        assert engine.generate(requests, sampling) == expected, "after a stream that was left"

    def test_too_long_prompts_are_refused(self, synced):
        with pytest.raises(ConfigError, match="exceed max_model_len 64"):
            synced(False)[0].generate(make_requests(1, 1), SamplingParams(1.0, 64))

    def test_what_vllm_cannot_serve_is_one_clear_error(self, folders, tmp_path):
        source, model = folders("qwen3")
        folder = tmp_path / "model"
        shutil.copytree(source, folder)
        engine = VLLMEngine(max_num_seqs=4)
        engine.start(folder, max_model_len=100_000, device=CPU, seed=0)  # the model has 256 positions
        with pytest.raises(ConfigError, match=r"vLLM did not start(.|\n)*max_model_len(.|\n)*TransformersEngine"):
            engine.sync_weights(model.state_dict().items(), version=0)


@pytest.mark.gpu
@pytest.mark.vllm
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize("tied", [False, True])
def test_on_a_gpu_weights_come_from_the_trainers_memory_and_sleep_gives_memory_back(folders, monkeypatch, tied):
    monkeypatch.setattr("aer_lightning.data.engines.vllm._BUCKET_BYTES", 30_000)  # several buckets
    folder, model = folders("qwen3", tied)
    device = torch.device("cuda", 0)
    weights = {name: tensor.to(device) for name, tensor in model.state_dict().items()}
    engine = VLLMEngine(gpu_memory_utilization=0.2, dtype="float32", enforce_eager=True)
    engine.start(folder, max_model_len=64, device=device, seed=0)
    try:
        requests, sampling = make_requests(8, 5), SamplingParams(0.8, 20)
        for version in (0, 1, 1):
            engine.sync_weights(weights.items(), version=version)
            engine.wake()
            assert engine.checksums(weights) == {name: checksum(tensor, torch.float32) for name, tensor in weights.items()}
            assert_faithful(model, requests, engine.generate(requests, sampling), 0.8, 20, tolerance=2e-3)
            awake = torch.cuda.mem_get_info(device)[0]
            engine.sleep()
            assert torch.cuda.mem_get_info(device)[0] > awake
            assert engine.needs_weights
        with pytest.raises(RuntimeError, match="after sleep"):
            engine.generate(requests, sampling)
    finally:
        engine.close()

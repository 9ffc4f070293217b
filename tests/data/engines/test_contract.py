"""What happens on a GPU, held to where there is none: the order of sleep, wake and sync, and the reload from handles."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from engine_helpers import assert_faithful, make_requests, shake, write_model
from safetensors.torch import save_file

from aer_lightning.data.engines import TransformersEngine, VLLMEngine
from aer_lightning.data.engines import vllm as engine_module
from aer_lightning.data.engines.base import SamplingParams
from aer_lightning.data.engines.checksum import checksum
from aer_lightning.data.engines.folder import WeightNames
from aer_lightning.data.engines.transport import CudaMemory, SharedMemory, aligned_bytes
from aer_lightning.data.engines.vllm_worker import VLLMWorker
from aer_lightning.errors import ConfigError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SAMPLING = SamplingParams(1.0, 8)


# -- the worker against an LLM that only writes down what it is asked ------------------------------------------------------------------


class FakeLLM:
    """Refuses to run in the wrong state, as vLLM's would crash."""

    def __init__(self, said: list[str], **options: object) -> None:
        self.said, self.resident, self.pending = said, {"weights", "kv_cache"}, 0
        self.model = torch.nn.Linear(2, 2)
        self.model.load_weights = lambda weights: said.append(f"load {sum(1 for _ in weights)}")
        self.llm_engine = SimpleNamespace(
            vllm_config=None,
            model_config=None,
            has_unfinished_requests=lambda: self.pending > 0,
            step=self.step,
            abort_request=lambda ids, internal: self.abort(),
        )

    def sleep(self, level: int) -> None:
        self.said.append(f"sleep {level}")
        self.resident.clear()

    def wake_up(self, tags: list[str]) -> None:
        self.said.append(f"wake {'+'.join(tags)}")
        self.resident |= set(tags)

    def apply_model(self, function):
        assert "weights" in self.resident
        return [function(self.model)]

    def reset_prefix_cache(self) -> None:
        self.said.append("reset cache")

    def enqueue(self, prompts, params, use_tqdm):
        assert self.resident == {"weights", "kv_cache"}
        assert all(p["flat_logprobs"] and p["logprobs"] == 0 for p in params)
        self.pending = len(prompts)
        return [f"{place + 40}-x-y" for place in range(len(prompts))]

    def step(self):
        """The last of those that are left ends."""
        self.pending -= 1
        flat = SimpleNamespace(token_ids=[7, self.pending], logprobs=[-0.5, -1.0])
        output = SimpleNamespace(token_ids=(7, self.pending), logprobs=flat, finish_reason="stop")
        return [
            SimpleNamespace(request_id=str(self.pending + 40), finished=True, outputs=[output]),
            SimpleNamespace(finished=False),
        ]

    def abort(self) -> None:
        self.said.append(f"abort {self.pending}")
        self.pending = 0


class Weights:
    """A reader whose handles are the tensors themselves."""

    def __init__(self, said: list[str]) -> None:
        self.said = said

    def open(self, handle):
        return handle

    def finish(self) -> None:
        self.said.append("copied")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def worker(monkeypatch, said):
    vllm = ModuleType("vllm")
    vllm.LLM = lambda **options: FakeLLM(said, **options)
    vllm.SamplingParams = lambda **options: options
    inputs, config = ModuleType("vllm.inputs"), ModuleType("vllm.config")
    inputs.TokensPrompt = dict
    config.set_current_vllm_config = lambda _: __import__("contextlib").nullcontext()
    reload = SimpleNamespace(
        initialize_layerwise_reload=lambda model: said.append("begin"), finalize_layerwise_reload=lambda *_: said.append("end")
    )
    loader = ModuleType("vllm.model_executor.model_loader")
    loader.reload = reload
    modules = {"vllm": vllm, "vllm.inputs": inputs, "vllm.config": config, "vllm.model_executor.model_loader": loader}
    modules["vllm.model_executor"] = ModuleType("vllm.model_executor")
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("gc.freeze", lambda: None)
    worker = VLLMWorker({"llm": {}, "end_token_ids": [1], "shared": None})
    worker.reader = Weights(said)
    return worker


def bucket(count: int, first: bool, last: bool) -> dict:
    return {"weights": [(str(i), torch.zeros(1)) for i in range(count)], "first": first, "last": last}


def test_the_worker_sleeps_wakes_and_loads_in_order(worker, said):
    """Sleep at level 2, weights awake before the first bucket, the cache only when something is generated."""
    worker.handle("sleep", None)
    worker.handle("sleep", None)
    worker.handle("load", bucket(3, True, False))
    worker.handle("load", bucket(2, False, True))
    assert said == ["sleep 2", "wake weights", "copied", "begin", "load 3", "copied", "load 2", "end", "reset cache"]
    said.clear()
    list(worker.handle("generate", {"prompts": [[1]], "seeds": [0], "sampling": {}}))
    assert said == ["wake kv_cache"]
    said.clear()
    worker.handle("sleep", None)
    worker.handle("load", bucket(1, True, True))
    worker.handle("wake", None)
    worker.handle("wake", None)
    assert said[0:2] == ["sleep 2", "wake weights"] and said[-1] == "wake kv_cache"
    assert said.count("wake kv_cache") == 1


def test_completions_are_handed_out_step_by_step_under_the_index_of_their_prompt(worker):
    parts = worker.handle("generate", {"prompts": [[1], [2], [3]], "seeds": [0, 1, 2], "sampling": {"temperature": 1.0}})
    assert next(parts) == [(2, [7, 2], [-0.5, -1.0], "stop")]
    assert [part[0][0] for part in parts] == [1, 0]


def test_a_generation_that_is_left_leaves_nothing_behind(worker, said):
    parts = worker.handle("generate", {"prompts": [[1], [2], [3]], "seeds": [0, 1, 2], "sampling": {}})
    next(parts)
    parts.close()
    assert said == ["abort 2"]
    assert [part[0][0] for part in worker.handle("generate", {"prompts": [[1]], "seeds": [0], "sampling": {}})] == [0]


# -- the engine against a worker that only writes down what it is asked ----------------------------------------------------------------


class FakeProcess:
    """Copies every bucket, as the worker does, and reads checksums from its copy."""

    def __init__(self, said: list[str], stored: list[torch.Tensor]) -> None:
        self.said, self.stored, self.held = said, stored, {}
        self.waits: dict[str, float] = {}  # seconds that each command may take

    def wait(self, seconds) -> None:
        self.waits["start"] = seconds

    def call(self, command, payload=None, seconds=None):
        self.waits[command] = seconds
        if command == "load":
            flags = ("first " if payload["first"] else "") + ("last" if payload["last"] else "")
            self.said.append(f"load {len(payload['weights'])} {flags}".strip())
            self.held |= {name: self.stored[handle[0]].clone() for name, handle in payload["weights"]}
        elif command == "checksums":
            self.said.append("checksums")
            return {name: checksum(self.held[name], torch.float32) for name in payload}
        else:
            self.said.append(command)
        return None

    def stream(self, command, payload, seconds):
        self.waits[command] = seconds
        self.said.append(command)
        yield [(1, [5, 1], [-1.0, -2.0], "stop")]
        yield [(0, [6], [-1.0], "length")]

    def close(self) -> None: ...


@pytest.fixture
def on_gpu(monkeypatch, said, folders):
    """A function (tied, capacity) -> (engine as after its start on a GPU, its process, the model); tensors stay on the CPU."""
    stored: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *device: None)

    def collect() -> None:
        said.append("ipc_collect")

    monkeypatch.setattr(torch.cuda, "ipc_collect", collect)

    def reduce_tensor(tensor):
        stored.append(tensor)
        return None, (len(stored) - 1,)

    monkeypatch.setattr(torch.multiprocessing.reductions, "reduce_tensor", reduce_tensor)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: object() if name == "vllm" else find_spec(name, *rest))

    def make(tied: bool = False, capacity: int = 1 << 30):
        model = folders("qwen3", tied)[1]
        engine = VLLMEngine()
        engine._device, engine._names, engine.weight_dtype = GPU, WeightNames.of_model(model), torch.float32
        engine._max_model_len = 64
        engine._worker = process = FakeProcess(said, stored)
        engine._memory = CudaMemory(CPU, capacity)
        return engine, process, model

    return make


def test_a_rollout_and_an_evaluation_in_the_order_of_memory(on_gpu, said):
    engine, _, model = on_gpu()
    requests = make_requests(2, 1)
    assert engine.needs_weights
    engine.sync_weights(model.state_dict().items(), version=0)
    completions = engine.generate(requests, SAMPLING)
    assert [c.token_ids for c in completions] == [[6], [5, 1]]
    engine.sleep()
    assert engine.needs_weights and engine.weight_version == 0, "what was generated is of this version still"
    engine.sleep()
    with pytest.raises(RuntimeError, match="after sleep without another"):
        list(engine.stream(requests, SAMPLING))
    with pytest.raises(RuntimeError, match="asleep"):
        engine.checksums(["model.norm.weight"])
    engine.wake()
    engine.sync_weights(model.state_dict().items(), version=0)  # an evaluation: the same weights again, and several batches of it
    engine.wake()
    for _ in range(2):
        engine.generate(requests, SAMPLING)
    engine.sleep()
    sync = ["load 25 first last", "ipc_collect"]
    assert said == [*sync, "generate", "sleep", *sync, "wake", "generate", "generate", "sleep"]


def test_the_timeouts_reach_the_waits_for_the_worker(on_gpu):
    engine, process, model = on_gpu()
    engine.start_timeout, engine.step_timeout = 11.0, 5.0
    engine.sync_weights(model.state_dict().items(), version=0)
    engine.generate(make_requests(2, 1), SAMPLING)
    engine.checksums(["model.norm.weight"])
    engine.sleep()
    each = dict.fromkeys(["load", "checksums", "sleep"], 5.0)
    assert process.waits == each | {"start": 11.0, "generate": 5.0 + SAMPLING.max_new_tokens}


@pytest.mark.parametrize("tied", [False, True])
def test_buckets_are_collected_one_by_one_and_hold_every_weight_once(on_gpu, said, tied):
    engine, process, model = on_gpu(tied, capacity=30_000)
    engine.sync_weights(model.state_dict().items(), version=3)
    loads = [line for line in said if line.startswith("load")]
    assert len(loads) > 5 and loads[0].endswith("first") and loads[-1].endswith("last")
    assert not any("first" in line or "last" in line for line in loads[1:-1])
    assert said[: 2 * len(loads)] == [line for load in loads for line in (load, "ipc_collect")]
    expected = dict(model.state_dict())
    assert {name: t.shape for name, t in process.held.items()} == {name: t.shape for name, t in expected.items()}
    assert all(torch.equal(process.held[name], tensor) for name, tensor in expected.items())
    assert engine.checksums(expected) == {name: checksum(tensor, torch.float32) for name, tensor in expected.items()}


def test_a_sync_that_breaks_off_is_ended_so_that_the_next_can_begin(on_gpu, said):
    engine, _, model = on_gpu(capacity=30_000)
    weights = dict(model.state_dict())
    weights.pop("model.norm.weight")
    with pytest.raises(ConfigError, match=r"missing model\.norm\.weight"):
        engine.sync_weights(weights.items(), version=0)
    assert said[-1] == "load 0 last" and engine.needs_weights


def test_expandable_segments_and_other_ranks(on_gpu, monkeypatch, folders):
    engine, _, _ = on_gpu()
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    with pytest.raises(ConfigError, match="expandable_segments"):
        engine.start(folders("qwen3")[0], max_model_len=64, device=GPU, seed=0)


def test_the_transformers_engine_gives_its_weights_up_and_takes_them_back(folders):
    """What sleep does on a GPU, on a CPU."""
    folder, model = folders("qwen3", True)
    engine = TransformersEngine()
    engine.start(folder, max_model_len=64, device=CPU, seed=0)
    engine.sync_weights(model.state_dict().items(), version=0)
    requests = make_requests(4, 4)
    before = engine.generate(requests, SAMPLING)
    engine.sleep()
    assert not engine.needs_weights, "nothing to do on a CPU"
    engine._give_memory()
    assert sum(p.numel() for p in engine._model.parameters()) == 0
    assert engine.needs_weights and engine.weight_version == 0
    with pytest.raises(RuntimeError, match="after sleep without another"):
        engine.generate(requests, SAMPLING)
    engine.sync_weights(model.state_dict().items(), version=0)
    assert engine.generate(requests, SAMPLING) == before


# -- vLLM itself, weights by handles ----------------------------------------------------------------------------------------------------


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_the_reload_from_handles_equals_vllms_own_from_a_file(folders, monkeypatch, tmp_path):
    """Buckets by CUDA IPC into a real vLLM with a tied model; every handle is freed before the next bucket."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(engine_module, "_WORKER", "cuda_worker")
    monkeypatch.setattr(engine_module, "_BUCKET_BYTES", 30_000)
    folder, _ = folders("qwen3", True)
    engine = VLLMEngine(max_num_seqs=32)
    engine.start(folder, max_model_len=64, device=CPU, seed=0)
    pages, used = engine._memory, [0]
    assert isinstance(pages, SharedMemory)

    def reduce_tensor(tensor):
        """Put the tensor where the worker finds it; what was put before is overwritten only after ``ipc_collect``."""
        offset = used[0]
        used[0] += aligned_bytes(tensor.numel(), tensor.element_size())
        assert used[0] <= pages.capacity, "a bucket was sent before the last one was freed"
        torch.frombuffer(pages._map, dtype=tensor.dtype, count=tensor.numel(), offset=offset).copy_(tensor.reshape(-1))
        return None, (offset, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), *"def", 0, *"hijklmn")

    monkeypatch.setattr(torch.multiprocessing.reductions, "reduce_tensor", reduce_tensor)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *device: None)
    monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: used.__setitem__(0, 0))
    engine._memory = CudaMemory(CPU, pages.capacity)
    requests, sampling = make_requests(8, 4), SamplingParams(1.0, 16)
    try:
        for seed in (1, 2):
            model = write_model(tmp_path / str(seed), "qwen3", True)
            shake(model, 0.1, seed=seed)
            weights = dict(model.state_dict())
            engine.sync_weights(weights.items(), version=seed)
            loads = engine._worker.call("loads")
            assert len(loads) > 5 and loads == [(i == 0, i == len(loads) - 1) for i in range(len(loads))]
            by_handles = engine.generate(requests, sampling)
            assert_faithful(model, requests, by_handles, 1.0, 16)
            files = tmp_path / f"files-{seed}"
            files.mkdir()
            save_file({name: tensor.clone() for name, tensor in weights.items()}, files / "model.safetensors")
            engine._worker.call("load_files", str(files))
            assert engine.generate(requests, sampling) == by_handles, "bit for bit"
            assert engine.checksums(weights) == {name: checksum(tensor, torch.float32) for name, tensor in weights.items()}
        with pytest.raises(ConfigError, match="missing"):
            engine.sync_weights([(name, t) for name, t in weights.items() if name != "model.norm.weight"], version=8)
        engine.sync_weights(weights.items(), version=9)
        assert engine.generate(requests, sampling) == by_handles, "after a sync that broke off"
    finally:
        engine.close()
        pages.close()


# -- inference mode ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [(True, False, False), (True, True, False), (False, True, False), (True, False, True)])
def test_the_transformers_engine_does_not_mind_inference_mode(folders, inside):
    """Lightning evaluates in it, and a run may start with an evaluation: what is made there must be usable outside, and back."""
    start, first, second = inside
    folder, model = folders("qwen3", True)
    engine, requests = TransformersEngine(), make_requests(4, 4)
    with torch.inference_mode(start):
        engine.start(folder, max_model_len=64, device=CPU, seed=0)
    with torch.inference_mode(first):
        engine.sync_weights(((name, tensor + 0) for name, tensor in model.state_dict().items()), version=0)
        before = engine.generate(requests, SAMPLING)
        engine._give_memory()
        engine.sync_weights(((name, tensor + 0) for name, tensor in model.state_dict().items()), version=0)
    with torch.inference_mode(second):
        engine.sync_weights(model.state_dict().items(), version=1)
        assert engine.generate(requests, SAMPLING) == before
        assert engine.checksums(["model.norm.weight"])


def test_the_shared_memory_does_not_mind_inference_mode():
    with torch.inference_mode():
        memory = SharedMemory(1024)
        weight = torch.ones(8) * 2
        handles = memory.export([("a", weight)])
    handles += memory.export([("a", weight + 1)])
    assert len(handles) == 2
    memory.close()

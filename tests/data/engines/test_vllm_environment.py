from types import SimpleNamespace

import pytest
import torch

from aer_lightning.data.engines.vllm_environment import refuse_expandable_segments, worker_cache_gib, worker_environment, worker_threads
from aer_lightning.errors import ConfigError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


def environment(device=CPU, threads=2, fixed_cache=False, eager=True):
    return worker_environment(device, threads=threads, fixed_cache=fixed_cache, eager=eager)


def test_every_rank_of_a_machine_compiles_into_its_own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    folders = []
    for rank in ("", "0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        folders.append(environment()["VLLM_CACHE_ROOT"])
    assert folders == [f"{tmp_path}/rank-0", f"{tmp_path}/rank-0", f"{tmp_path}/rank-1"]
    monkeypatch.delenv("LOCAL_RANK")
    monkeypatch.setenv("SLURM_LOCALID", "3")
    assert environment()["VLLM_CACHE_ROOT"] == f"{tmp_path}/rank-3"
    monkeypatch.delenv("VLLM_CACHE_ROOT")
    assert environment()["VLLM_CACHE_ROOT"].endswith("/.cache/vllm/rank-3")


@pytest.mark.parametrize("variable", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_expandable_segments_are_refused_in_one_line(monkeypatch, variable):
    refuse_expandable_segments()
    monkeypatch.setenv(variable, "max_split_size_mb:512")
    refuse_expandable_segments()
    monkeypatch.setenv(variable, "max_split_size_mb:512, expandable_segments: True")
    with pytest.raises(ConfigError, match=rf"{variable} has expandable_segments:True: .*remove it.*TransformersEngine") as caught:
        refuse_expandable_segments()
    assert "\n" not in str(caught.value)


def test_devices_threads_and_what_the_user_set(monkeypatch):
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cpu = environment(threads=3, fixed_cache=True)
    assert cpu["OMP_NUM_THREADS"] == "3" and cpu["VLLM_LOGGING_LEVEL"] == "DEBUG" and cpu["TORCHDYNAMO_DISABLE"] == "1"
    assert cpu["VLLM_CPU_KVCACHE_SPACE"] is None and "VLLM_CPU_KVCACHE_SPACE" not in environment()
    assert "TORCHDYNAMO_DISABLE" not in environment(eager=False)
    assert environment(GPU)["CUDA_VISIBLE_DEVICES"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    gpu = environment(GPU)
    assert gpu["CUDA_VISIBLE_DEVICES"] == "6" and "OMP_NUM_THREADS" not in gpu


def test_threads_and_cache_follow_the_model(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert (worker_threads(1_000_000), worker_threads(10**9)) == (1, 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert worker_threads(10**9) == 2
    text = SimpleNamespace(num_attention_heads=9, num_hidden_layers=30, hidden_size=576, num_key_value_heads=3, head_dim=64)
    config = SimpleNamespace(get_text_config=lambda: text)
    # 64 sequences x 1 block of 128 tokens, and one; 30 layers x 3 heads x 64 x keys and values x 4 bytes a token
    assert worker_cache_gib(config, 64, 100, 4) == pytest.approx(65 * 128 * 30 * 3 * 64 * 2 * 4 / 2**30)
    assert worker_cache_gib(config, 4096, 1000, 4) == 4.0
    assert worker_cache_gib(SimpleNamespace(get_text_config=lambda: SimpleNamespace()), 1, 1, 4) == 1.0

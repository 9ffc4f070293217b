"""Each of two ranks reads its shards only: the weights are those of the plain load, and memory holds half of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from aer_lightning.modules.adapters import Lora
from aer_lightning.modules.loading import NetworkOptions, Sharding, load_network
from aer_lightning.modules.sharded_start import unreadable, weight_files
from aer_lightning.modules.sharding import full_state

MIB = 1 << 20


def peak() -> int:
    """Largest resident memory so far, bytes; pages of mapped files included."""
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))


def _ranks(rank, folder, other, store, world, replicas, out):
    from torch.distributed.device_mesh import init_device_mesh

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    shape, names = ((replicas, world // replicas), ("copies", "shards")) if replicas > 1 else ((world,), ("shards",))
    sharding = Sharding(init_device_mesh("cpu", shape, mesh_dim_names=names), torch.device("cpu"))
    load_network(str(other), NetworkOptions(), sharding=sharding)  # imports and caches are not the model's memory
    before = peak()
    lora = None if replicas == 1 else Lora(r=4, alpha=8)
    network = load_network(str(folder), NetworkOptions(), lora, seed=3, sharding=sharding)
    grown = peak() - before
    plain = load_network(str(folder), NetworkOptions(), lora, seed=3)
    part = rank % (world // replicas)
    shards = dict(network.named_parameters(remove_duplicate=False))
    whole = dict(plain.named_parameters(remove_duplicate=False))
    result = {
        "grown": grown,
        "tied": network.model.get_output_embeddings().weight is network.model.get_input_embeddings().weight,
        "equal": shards.keys() == whole.keys()
        and all(torch.equal(shards[n].to_local(), t.chunk(world // replicas)[part]) for n, t in whole.items())
        and all(torch.equal(b, dict(plain.named_buffers())[n]) for n, b in network.named_buffers()),
        "trained": {n for n, p in shards.items() if p.requires_grad} == {n for n, p in whole.items() if p.requires_grad},
    }
    if len(whole) < 80:  # gathered weights are what was read
        ids = torch.arange(8) % network.model.config.vocab_size
        arguments = (ids, torch.arange(8), (8,), torch.arange(3), ids[1:4], 1.0)
        result["same"] = torch.equal(network(*arguments)[0], plain(*arguments)[0])
        state, expected = dict(full_state(network)), dict(full_state(plain))
        result["same"] &= state.keys() == expected.keys() and all(torch.equal(t, expected[n]) for n, t in state.items())
    Path(out, f"{rank}.json").write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


def start(folder, other, tmp_path, world=2, replicas=1):
    out = tmp_path / "out"
    out.mkdir()
    mp.spawn(_ranks, (folder, other, str(tmp_path / "store"), world, replicas, str(out)), nprocs=world)
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(world)]


@pytest.mark.slow
def test_shards_are_those_of_the_plain_load_and_memory_holds_no_more(tmp_path, random_model):
    from tests.conftest import build_model

    big = build_model("qwen3", tmp_path / "big", hidden_size=512, intermediate_size=2048, num_hidden_layers=8, initializer_range=0.02)
    size = os.path.getsize(big / "model.safetensors")
    assert 90 * MIB < size < 130 * MIB
    results = start(big, random_model, tmp_path)
    assert all(r["equal"] and r["trained"] for r in results)
    assert sum(r["grown"] for r in results) <= 1.2 * size, [r["grown"] / size for r in results]


def _accelerated(rank, folder, other, store, dtype, place, out):
    from torch.distributed.device_mesh import init_device_mesh

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    sharding = Sharding(init_device_mesh("cpu", (2,), mesh_dim_names=("shards",)), torch.device(place))
    load_network(str(other), NetworkOptions(dtype=dtype), sharding=sharding)
    before = peak()
    network = load_network(str(folder), NetworkOptions(dtype=dtype), sharding=sharding)
    Path(out, f"{rank}").write_text(str(peak() - before))
    dist.barrier()
    dist.destroy_process_group()
    del network


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "place"), [("float32", "meta"), ("bfloat16", "cpu")])
def test_a_file_in_bfloat16(tmp_path, random_model, dtype, place):
    """Resident memory of both ranks: with fp32 shards on another device (meta, for want of one), and with bf16 shards here."""
    from transformers import AutoModelForCausalLM

    from tests.conftest import build_model

    big = build_model("qwen3", tmp_path / "big", hidden_size=768, intermediate_size=2048, num_hidden_layers=8, initializer_range=0.02)
    AutoModelForCausalLM.from_pretrained(big).to(torch.bfloat16).save_pretrained(big)
    size = os.path.getsize(big / "model.safetensors")
    mp.spawn(_accelerated, (big, random_model, str(tmp_path / "store"), dtype, place, str(tmp_path)), nprocs=2)
    grown = sum(int((tmp_path / str(rank)).read_text()) for rank in range(2))
    assert grown <= 1.2 * size, grown / size


@pytest.mark.parametrize("replicas", [1, 2])
def test_tied_embeddings_stay_one(tmp_path, random_llama, random_model, replicas):
    results = start(random_llama, random_model, tmp_path, replicas=replicas)
    assert all(r["equal"] and r["trained"] and r["same"] and r["tied"] for r in results)


def test_files_with_other_names_or_shapes_are_left_to_the_plain_load(tmp_path, random_model):
    from safetensors.torch import load_file, save_file

    model = load_network(str(random_model), NetworkOptions()).model
    assert unreadable(model, weight_files(random_model)) is None
    assert "no safetensors" in unreadable(model, weight_files(tmp_path))
    state = load_file(random_model / "model.safetensors")
    state["model.norm.gamma"] = state.pop("model.norm.weight")
    save_file(state, tmp_path / "model.safetensors")
    assert "model.norm.weight" in unreadable(model, weight_files(tmp_path))

"""The plan reads config.json alone, adds up, follows each option, and names the smallest change that helps."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from aer_lightning.errors import ConfigError, DataError
from aer_lightning.plan.command import main, plan, verdict
from aer_lightning.plan.facts import RunFacts, model_facts, read_config, run_facts
from aer_lightning.plan.hardware import ACCELERATORS, accelerator
from aer_lightning.plan.memory import phases
from aer_lightning.plan.verdict import changes, fits, smallest_change

ROOT = Path(__file__).parents[2]
MODELS = Path(__file__).parent / "models"
PARAMETERS = {"qwen3_8b": 8_190_735_360, "qwen3_4b": 4_022_468_096, "qwen3_1b7": 1_720_574_976}  # the model cards: 8.2B, 4.0B, 1.7B


@pytest.fixture(scope="module")
def eight():
    return model_facts(read_config(str(MODELS / "qwen3_8b")))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_counted_without_storage(name):
    facts = model_facts(read_config(str(MODELS / name)))
    assert facts.parameters == PARAMETERS[name]
    assert facts.kv_bytes == 2 * 2 * facts.layers * 8 * 128
    assert facts.decoder < facts.parameters and facts.largest_layer * facts.layers == pytest.approx(facts.decoder, rel=1e-3)


def test_a_cpu_gets_the_sizes_of_a_cpu(capsys, monkeypatch):
    """`configs/gsm8k.yaml` has others for a GPU, which fit takes there by itself."""
    monkeypatch.chdir(ROOT)
    sequences = {}
    for gpu in ("cpu", "h100-80gb"):
        seen = []
        monkeypatch.setattr("aer_lightning.plan.command.run_facts", lambda config, seen=seen: (seen.append(config), run_facts(config))[1])
        assert main(["-c", "configs/gsm8k.yaml", f"--model.init_args.pretrained={MODELS / 'qwen3_8b'}", "--gpu", gpu, "--json"]) == 0
        data = seen[0]["data"]["init_args"]
        sequences[gpu] = data["prompts_per_rollout"] * data["responses_per_prompt"]
    assert sequences == {"cpu": 16, "h100-80gb": 1024}


def test_the_command_takes_the_arguments_of_fit_and_prints_one_object(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    model = f"--model.init_args.pretrained={MODELS / 'qwen3_8b'}"
    started = time.monotonic()
    options = ["--trainer.strategy=fsdp2", "--trainer.devices=8", "--gpu", "h200-141gb", "--json"]
    assert main(["-c", "configs/paper/qwen3_4b.yaml", model, *options]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["parameters"] == PARAMETERS["qwen3_8b"] and result["world_size"] == 8 and result["gpu"] == "h200-141gb"
    assert set(result["phases"]) == {"generate", "sync", "score", "train", "checkpoint"}
    for row in result["phases"].values():
        assert {"weights_gib", "gradients_gib", "optimizer_gib", "activations_gib", "kv_cache_gib", "head_workspace_gib"} <= row.keys()
        assert row["total_gib"] == pytest.approx(sum(v for k, v in row.items() if k != "total_gib"), abs=0.01)
    assert result["peak_gib"] == max(row["total_gib"] for row in result["phases"].values())
    assert result["fits"] is True and result["change"] == "" and result["host_gib"]["peak"] > result["host_gib"]["start"] > 0
    assert result["seconds"]["rollout"] == pytest.approx(sum(v for k, v in result["seconds"].items() if k != "rollout"), abs=0.01)
    assert result["decoding_sequences"] > 0 and result["sync_gib"] == pytest.approx(PARAMETERS["qwen3_8b"] * 2 / 2**30, abs=0.01)
    del started  # the bar of 20 s is looked at by hand: tests are not timed


def test_shards_gradients_and_states_follow_the_options(eight):
    one = RunFacts(eight, mixed=True, checkpointing=True, max_new=4096, tokens=8192)
    train = phases(one, 80)["train"]
    gib = eight.parameters / 2**30
    assert (train.weights_gib, train.gradients_gib, train.optimizer_gib) == pytest.approx((4 * gib, 4 * gib, 8 * gib))
    shards = phases(one.but(sharded=True, devices=8), 80)["train"]
    assert (shards.weights_gib, shards.gradients_gib, shards.optimizer_gib) == pytest.approx((gib / 2, gib / 2, gib))
    assert shards.gathered_gib > 0
    assert phases(one.but(sharded=True, devices=8, last_pack=True), 80)["train"].gradients_gib == pytest.approx(4 * gib)
    assert phases(one.but(optimizer_bytes=2), 80)["train"].optimizer_gib == pytest.approx(2 * gib)
    lora = phases(one.but(lora=16, lora_base_bytes=2), 80)["train"]
    assert lora.weights_gib < 2.1 * gib and lora.gradients_gib < 0.05 * gib
    assert phases(one.but(reference=True), 80)["score"].weights_gib == pytest.approx(8 * gib)


def test_offload_empties_the_turn_of_the_engine_only(eight):
    run = RunFacts(eight, mixed=True, checkpointing=True, tokens=8192)
    totals = {offload: phases(run.but(offload=offload), 80) for offload in ("none", "optimizer", "all")}
    assert totals["none"]["generate"].optimizer_gib > 0 == totals["optimizer"]["generate"].optimizer_gib
    assert totals["optimizer"]["generate"].weights_gib > 0 == totals["all"]["generate"].weights_gib
    assert totals["none"]["train"] == totals["all"]["train"]


def test_activations_are_traced_and_follow_tokens_precision_and_checkpointing(eight):
    def act(**changes):
        run = RunFacts(eight, mixed=True, max_new=4096, prompts=64, step_copies=False, **changes)
        return phases(run, 80)["train"].activations_gib

    whole, half = act(tokens=16384), act(tokens=8192)
    assert 1.7 < whole / half < 2.1
    assert act(tokens=8192, checkpointing=True) < 0.2 * half
    fp32 = phases(RunFacts(eight, mixed=False, max_new=4096, prompts=64, tokens=8192, step_copies=False), 80)["train"].activations_gib
    assert fp32 > 1.2 * half


def test_the_optimizers_step_may_be_the_worst_moment(eight):
    run = RunFacts(eight, mixed=True, checkpointing=True, max_new=4096, tokens=8192)
    assert phases(run, 80)["train"].activations_gib == pytest.approx(eight.parameters * 4 / 2**30), "foreach copies all states' roots"
    assert phases(run.but(step_copies=False), 80)["train"].activations_gib < 18
    assert phases(run.but(host=True), 80)["train"].activations_gib < 18, "a CPU goes weight by weight"


def test_scoring_is_planned_only_where_it_happens(eight):
    assert phases(RunFacts(eight), 80)["score"].activations_gib == 0 < phases(RunFacts(eight, scored=True), 80)["score"].activations_gib


def test_the_smallest_change_comes_first_and_helps(eight):
    small = model_facts(read_config(str(MODELS / "qwen3_1b7")))
    run = RunFacts(small, mixed=True, max_prompt=1024, max_new=4096, prompts=128, tokens=16384, checkpointing=False)
    assert not fits(run, 79.1)
    assert smallest_change(run, 79.1).startswith("data.init_args.tokens_per_micro_batch")
    assert smallest_change(run.but(tokens=5120), 500) == ""
    big = RunFacts(eight, mixed=True, max_prompt=1024, max_new=4096, prompts=128)
    assert "lora" in smallest_change(big, 79.1), "one card does not train 8B parameters whole"
    assert smallest_change(big, 3.0) is None
    assert verdict(plan(big, accelerator("3"))).startswith("cannot")


def test_options_of_a_run_are_read():
    config = {
        "model": {
            "init_args": {
                "pretrained": str(MODELS / "qwen3_1b7"),
                "kl_weight": 0.1,
                "lora": {"r": 8, "base_dtype": "bfloat16"},
                "optimizer": {"class_path": "torchao.optim.AdamW8bit"},
                "offload": "all",
                "reduce_gradients": "last_pack",
            }
        },
        "data": {"init_args": {"optimizer_steps_per_rollout": 2, "engine": {"class_path": "x.TransformersEngine"}}},
        "trainer": {"devices": [0, 1], "num_nodes": 3, "strategy": "fsdp", "precision": "bf16-mixed"},
    }
    run = run_facts(config)
    assert (run.world_size, run.sharded, run.mixed, run.scored, run.vllm) == (6, True, True, True, False)
    assert (run.lora, run.lora_base_bytes, run.reference, run.optimizer_bytes) == (8, 2, False, 2)
    assert (run.offload, run.last_pack) == ("all", True)


def given(engine=None, data=None, optimizer=None):
    """The tiny model through the configuration of a run with these options."""
    engine = {"class_path": "VLLMEngine", "init_args": {}} | (engine or {})
    model = {"pretrained": "countdown-tiny", "optimizer": {"class_path": "torch.optim.AdamW", "init_args": optimizer or {}}}
    return {"model": {"init_args": model}, "data": {"init_args": {"engine": engine} | (data or {})}, "trainer": {}}


TRANSFORMERS = {"class_path": "TransformersEngine"}


@pytest.mark.parametrize(
    ("options", "host", "phase", "part"),
    [
        ({"engine": {"init_args": {"dtype": "float32"}}}, False, "generate", "engine_gib"),
        ({"engine": {"init_args": {"kv_cache_gib": 3.0}}}, False, "generate", "kv_cache_gib"),
        ({"engine": {"init_args": {"kv_cache_gib": 3.0}}}, True, "train", "kv_cache_gib"),
        ({"engine": {"init_args": {"max_num_seqs": 4096}}}, True, "generate", "kv_cache_gib"),
        ({"engine": TRANSFORMERS | {"init_args": {"max_batch_size": 2}}}, False, "generate", "kv_cache_gib"),
        ({"engine": TRANSFORMERS | {"init_args": {"max_prefill_tokens": 64, "max_batch_size": 1}}}, False, "generate", "activations_gib"),
        ({"engine": TRANSFORMERS, "data": {"sleep_engine": False}}, False, "train", "engine_gib"),
        ({"data": {"scoring_pass": "always"}}, False, "score", "activations_gib"),
    ],
)
def test_an_option_of_a_run_moves_its_part_of_the_plan(options, host, phase, part):
    plain = {"engine": TRANSFORMERS} if options.get("engine", {}).get("class_path") else {}
    rows = [phases(replace(run_facts(given(**o)), host=host), 80.0)[phase] for o in (plain, options)]
    assert getattr(rows[0], part) != getattr(rows[1], part)


def test_a_fused_optimizer_makes_no_copies():
    assert [run_facts(given(optimizer=o)).step_copies for o in ({}, {"fused": True}, {"foreach": False})] == [True, False, False]


def test_a_worker_of_vllm_counts_on_a_cpu():
    run = replace(run_facts(given()), host=True)
    with_worker, alone = phases(run, 24.0), phases(replace(run, vllm=False), 24.0)
    assert all(with_worker[name].total_gib > alone[name].total_gib + 1 for name in ("sync", "train", "checkpoint"))


def test_a_cpu_is_planned_with_engine_and_saved_copy_and_without_offload():
    small = model_facts(read_config("countdown-tiny"))
    run = RunFacts(small, vllm=False, max_prompt=32, max_new=26, tokens=1024)
    result = plan(run, accelerator("cpu-4gib"))
    train, checkpoint = result["phases"]["train"], result["phases"]["checkpoint"]
    weights = small.parameters * 4 / 2**30
    assert train["engine_gib"] == pytest.approx(weights, abs=1e-3), "the engine's own weights stay"
    assert checkpoint["saved_gib"] == pytest.approx(9 * weights, abs=2e-3), "12 bytes a weight, and the file twice more"
    assert result["fits"] and result["seconds"] is None and result["host_gib"]["peak"] == pytest.approx(result["peak_gib"], abs=0.01)
    tight = plan(run.but(tokens=16384, prompts=64), accelerator("cpu-1gib"))
    assert not tight["fits"] and "tokens_per_micro_batch" in tight["change"] and "GPU" not in verdict(tight)
    hopeless = verdict(plan(run, accelerator("cpu-0.1gib")))
    assert hopeless.startswith("cannot") and "offload" not in hopeless and "devices" not in hopeless
    assert accelerator("cpu").memory_gib > 0.5 and accelerator("cpu").host


@pytest.mark.parametrize("budget", [500.0, 60.0, 30.0, 12.0])
def test_no_smaller_change_than_the_one_named_would_do(budget):
    run = RunFacts(model_facts(read_config(str(MODELS / "qwen3_1b7"))), mixed=True, max_prompt=1024, max_new=4096, prompts=128)
    named = smallest_change(run, budget)
    tried = list(changes(run))
    names = [name for name, _ in tried]
    if named == "":
        assert fits(run, budget)
        return
    assert not fits(run, budget)
    before = tried if named is None else tried[: names.index(named)]
    assert not any(fits(changed, budget) for _, changed in before)
    assert named is None or fits(dict(tried)[named], budget)


def test_bad_input(tmp_path):
    with pytest.raises(ConfigError, match=f"^gpu: .*{', '.join(ACCELERATORS)}"):
        accelerator("h100-79gb")
    with pytest.raises(DataError, match=r"^model\.init_args\.pretrained: .* no config\.json"):
        read_config(str(tmp_path))
    assert (
        accelerator("24").memory_gib == 24
        and plan(RunFacts(model_facts(read_config("countdown-tiny"))), accelerator("24"))["seconds"] is None
    )

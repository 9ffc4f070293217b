"""The path of a real language model: chat template, word problems, boxed answers, two benchmarks at once during training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.chat_model import build_chat_model

ROOT = Path(__file__).parents[2]
PROBLEMS = [
    {
        "id": f"train/{i}",
        "problem": f"Ann has {i} pears and buys {i + 2} more. How many pears has she?",
        "answer": str(2 * i + 2),
        "source": "x",
    }
    for i in range(12)
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path):
    """Training problems, and an overlay with two sets to validate on; one held-out problem is in the training data."""
    train = write(tmp_path / "train.jsonl", PROBLEMS)
    others = [{**p, "id": f"test/{i}", "problem": p["problem"].replace("pears", "figs")} for i, p in enumerate(PROBLEMS[:3], 1)]
    held_out = [{**PROBLEMS[0], "id": "test/0"}, *others]
    test = write(tmp_path / "test.jsonl", held_out)
    sums = write(tmp_path / "sums.jsonl", [{"id": f"sums/{i}", "problem": f"{i} + 1", "answer": str(i + 1)} for i in range(5)])
    sources = [
        {"class_path": "aer_lightning.data.prompts.GSM8K", "init_args": {"path": str(test)}},
        {
            "class_path": "aer_lightning.data.prompts.JsonlPrompts",
            "init_args": {"path": str(sums), "chat": True, "template": "What is {problem}?"},
        },
    ]
    overlay = tmp_path / "overlay.json"
    # The coefficient starts at 0 and a random model has no entropy to regain: without a start no token would move it.
    stack = [
        ("EntropyAnchor", {"tau": 0.4}),
        ("GlobalCoefficient", {"alpha_init": 0.05, "kp": 0.05, "ki": 0.005, "alpha_max": 0.1}),
        ("DifficultyCoefficient", {}),
    ]
    callbacks = [{"class_path": f"aer_lightning.callbacks.{name}", "init_args": values} for name, values in stack]
    overlay.write_text(json.dumps({"data": {"init_args": {"evaluation": sources}}, "trainer": {"callbacks": callbacks}}))
    return train, overlay


def options(model, train, run):
    values = {
        "run_dir": run,
        "trainer.accelerator": "cpu",
        "model.init_args.pretrained": model,
        "data.init_args.engine": "TransformersEngine",
        "data.init_args.prompts.init_args.path": train,
        "data.init_args.max_new_tokens": 12,
    }
    return [f"--{key}={value}" for key, value in values.items()]


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_two_rollouts(cli, files, tmp_path, kind, read_metrics, caplog):
    model, run = build_chat_model(kind, tmp_path / kind), tmp_path / "run"
    train, overlay = files
    extra = ["--samples.every=1", "--samples.limit=null", "--curves.enabled=false"]
    status, _, err = cli.run("fit", "-c", "configs/gsm8k.yaml", "-c", overlay, *options(model, train, run), *extra)
    assert status == 0, err
    rows = read_metrics(run)
    assert [row["rollout/index"] for row in rows] == [0, 1]
    assert all(row["rollout/mismatch_logprob"] < 1e-4 for row in rows), "engine and trainer read the same tokens"
    assert rows[0]["rollout/entropy"] > 1 and rows[0]["aer/target_entropy"] == pytest.approx(0.4 * rows[0]["rollout/entropy"])
    assert all(row["train/grad_norm"] > 0 for row in rows), "the entropy term moves a policy that is always wrong"
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 2 * 16
    text = json.dumps(samples[0])
    assert "pears" in text and "\\\\boxed{}" in text, "the prompt asks for a boxed answer"
    evaluated = [json.loads(line) for line in (run / "evaluation.jsonl").read_text().splitlines()]
    names = {(row["source"], row["step"]) for row in evaluated}
    assert {s for s, _ in names} == {"gsm8k", "sums"} and len({t for _, t in names}) >= 2, "both benchmarks, more than once"
    assert "1 problems of gsm8k are in the training data" in caplog.text
    assert (run / "model" / "model.safetensors").is_file()


def test_what_the_model_reads(tmp_path):
    from transformers import AutoTokenizer

    from aer_lightning.data.prompts import GSM8K
    from aer_lightning.data.stream import encode

    tokenizer = AutoTokenizer.from_pretrained(build_chat_model("qwen3", tmp_path / "model"))
    source = GSM8K(path=str(write(tmp_path / "p.jsonl", PROBLEMS[:1])))
    ids = encode(source[0], tokenizer)
    text = tokenizer.decode(ids)
    assert text.startswith("<|user|>Ann has 0 pears") and text.endswith("in \\boxed{}.<|end|><|assistant|>")
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|user|>"), "the template's marks are single tokens"


def test_a_model_without_chat_template_is_refused(cli, files, tmp_path, random_model):
    train, overlay = files
    message = cli.refused(
        "fit",
        "-c",
        "configs/gsm8k.yaml",
        "-c",
        overlay,
        *options(random_model, train, tmp_path / "run"),
        "--data.init_args.max_prompt_tokens=100",
    )
    assert "chat template" in message

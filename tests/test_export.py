import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from aer_lightning.callbacks import FixedCoefficient
from aer_lightning.callbacks.checkpoint import RolloutCheckpoint
from aer_lightning.callbacks.history import MetricsHistory
from aer_lightning.data.prompts import CountdownPrompts
from aer_lightning.export import card, main
from aer_lightning.modules.adapters import Lora


@pytest.mark.parametrize("kind", ["folder", "file", "adapters"])
def test_a_checkpoint_becomes_the_model_that_was_trained(runs, tmp_path, capsys, kind, random_llama):
    save = ModelCheckpoint(dirpath=tmp_path, filename="plain") if kind == "file" else RolloutCheckpoint()
    data = runs.data(evaluation=[CountdownPrompts(split="validation", numbers=(2,), size=2)])
    options = {"pretrained": str(random_llama), "lora": Lora(r=2) if kind == "adapters" else None}
    _, module, _ = runs.fit([FixedCoefficient(0.1), MetricsHistory(), save], data=data, module=runs.module(**options))
    path = tmp_path / ("plain.ckpt" if kind == "file" else "checkpoints/last.ckpt")
    assert main([str(path), str(tmp_path / "out"), "--dtype", "bfloat16"]) == 0, capsys.readouterr().err
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    trained = dict(module.full_weights())
    assert loaded.dtype == torch.bfloat16 and all(torch.equal(t, trained[n].bfloat16()) for n, t in loaded.state_dict().items())
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("3 7") == AutoTokenizer.from_pretrained(random_llama)("3 7")
    GenerationConfig.from_pretrained(tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert f'base_model: "{random_llama}"' in text and ("after 2 rollouts" in text and "pass@1" in text) == (kind != "file")


def test_the_card_says_how_it_was_trained():
    configuration = {
        "trainer.callbacks": [{"class_path": "a.EntropyAnchor", "init_args": {"tau": 0.4}}],
        "data.init_args.prompts.class_path": "b.JsonlPrompts",
        "data.init_args.prompts.init_args.path": "train.jsonl",
    }
    text = card(
        "Qwen/Qwen3-4B-Base", {"rollouts": 3, "step": 6, "world_size": 2, "package": "1", "configuration": configuration}, [], "float32"
    )
    for said in (
        'base_model: "Qwen/Qwen3-4B-Base"',
        "EntropyAnchor; objective ClipObjective",
        "JsonlPrompts",
        "train.jsonl",
        "6 optimizer steps",
    ):
        assert said in text
    assert "Nothing was measured" in text


def test_what_is_refused_is_one_line(runs, tmp_path, capsys, random_llama):
    runs.fit([FixedCoefficient(0.1), RolloutCheckpoint()])
    path = tmp_path / "checkpoints" / "last.ckpt"

    def refused(*arguments):
        assert main([*map(str, arguments)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    assert "not empty" in refused(path, tmp_path / "checkpoints")
    assert "no file" in refused(tmp_path / "none.ckpt", tmp_path / "out")
    assert "--model" in refused(path, tmp_path / "out", "--model", random_llama)
    (path / "state.pt").write_bytes(b"x")
    assert "state.pt has 1 of" in refused(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()

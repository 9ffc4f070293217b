import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from aer_lightning import tiny_model
from aer_lightning.assets import asset, resolve_model
from aer_lightning.data.prompts import CountdownPrompts
from aer_lightning.tiny_model import (
    CHARACTERS,
    IGNORE,
    Recipe,
    build_tokenizer,
    format_table,
    main,
    measure,
    sample_answers,
    train,
    training_batches,
)

FOLDER = resolve_model("countdown-tiny")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def shipped():
    return AutoModelForCausalLM.from_pretrained(FOLDER).eval(), AutoTokenizer.from_pretrained(FOLDER)


def test_resolve_model(tmp_path, monkeypatch):
    assert FOLDER.is_dir()
    assert resolve_model("some/model") == "some/model"
    assert resolve_model("./countdown-tiny") == "./countdown-tiny"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "countdown-tiny").mkdir()
    assert resolve_model("countdown-tiny") == FOLDER


def test_names_and_prompts_need_no_heavy_import():
    heavy = "{'torch', 'transformers', 'datasets', 'lightning'}"
    code = "import sys, aer_lightning.assets, aer_lightning.data.prompts, aer_lightning.data.rewards.countdown;"
    code += f"print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "[]", result.stderr


def test_the_tokenizer_gives_a_text_back(shipped):
    _, tokenizer = shipped
    for text in ["3 7 25=46:", "(3*7)+25/1-4", "  1  ", CHARACTERS]:
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text)  # one token a character, none added
        assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*tokenizer.encode("1+2"), tokenizer.eos_token_id, tokenizer.pad_token_id], skip_special_tokens=True) == "1+2"
    assert len({tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}) == 3
    assert tokenizer.encode("x") == [tokenizer.unk_token_id]


def test_the_shipped_model_is_what_its_card_says(shipped):
    model, tokenizer = shipped
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in card
    assert model.config.model_type == "qwen3"
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    weights = load_file(FOLDER / "model.safetensors")
    assert not torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 5e6

    claimed = {}
    for line in card.splitlines():
        if match := re.match(r"\| (\d numbers|all) \(\d+\) \|(.*)\|", line):
            claimed[match[1]] = [float(x) for x in match[2].split("|")]
    rows = measure(model, tokenizer, problems=60, n=16, seed=1)
    assert [row.label for row in rows] == list(claimed) == ["2 numbers", "3 numbers", "4 numbers", "all"]
    for row in rows:
        pass_1, pass_8, _, _, unparsed, entropy, length = claimed[row.label]
        # Another 20 problems a difficulty: three standard errors of their spread.
        assert row.pass_1 == pytest.approx(pass_1, abs=0.25)
        assert row.pass_8 == pytest.approx(pass_8, abs=0.35)
        assert row.unparsed == pytest.approx(unparsed, abs=0.05)
        assert row.entropy == pytest.approx(entropy, abs=0.12)
        assert row.length == pytest.approx(length, abs=0.7)
        assert row.mixed > 0.3  # reinforcement learning has something to compare at every difficulty
        assert row.pass_8 > row.pass_1 + 0.1  # and room to improve
    assert rows[-1].entropy > 0.35


def test_sampling_reports_entropy_and_length_of_what_it_drew(shipped):
    model, tokenizer = shipped
    prompts = ["1 2=3:", "11 12 13 14=50:"]  # of different length, so one is padded
    torch.manual_seed(0)
    texts, entropy, length = sample_answers(model, tokenizer, prompts, 4)
    for i, prompt in enumerate(prompts):
        for j, text in enumerate(texts[i]):
            answer = tokenizer.encode(text)
            ids = torch.tensor([tokenizer.encode(prompt) + answer])
            with torch.no_grad():
                logp = model(input_ids=ids).logits[0, len(prompt) - 1 :].log_softmax(-1)
            ended = len(answer) < tiny_model.MAX_ANSWER
            assert length[i, j] == len(answer) + ended
            expected = -(logp.exp() * logp).sum(-1)[: int(length[i, j])].sum()
            assert entropy[i, j].item() == pytest.approx(expected.item(), abs=1e-3)


def test_training_batches_have_loss_on_the_answer_alone():
    tokenizer = tiny_model.build_tokenizer()
    recipe = Recipe(steps=2, batch=30, seed=5)
    source = CountdownPrompts("train", seed=5)
    expected = sorted(source[i].text + source[i].extra["solution"] for i in range(60))
    seen = []
    for parts in training_batches(tokenizer, recipe):
        assert sum(len(ids) for ids, _ in parts) == 30
        for ids, labels in parts:
            for row, label in zip(ids.tolist(), labels.tolist(), strict=True):
                text = tokenizer.decode(row, skip_special_tokens=True)
                question, _, answer = text.partition(":")
                seen.append(text)
                kept = [x for x in label if x != IGNORE]
                assert kept == [*tokenizer.encode(answer), tokenizer.eos_token_id]
                assert label[len(question) + 1 :][: len(kept)] == kept
    assert sorted(seen) == expected


def test_training_is_the_same_twice_and_lowers_the_loss(capsys):
    recipe = Recipe(steps=6, batch=24)
    first, _ = train(recipe, log_every=1)
    losses = [float(x) for x in re.findall(r"loss ([\d.]+) nat", capsys.readouterr().err)]
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 0.1
    second, _ = train(recipe)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    other, _ = train(Recipe(steps=6, batch=24, seed=1))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_the_command_writes_a_model_that_loads_and_measures_it_again(tmp_path, capsys):
    out = tmp_path / "model"
    sizes = ["--out", str(out), "--problems", "3", "--samples", "16"]
    assert main([*sizes, "--steps", "1"]) == 0
    table = capsys.readouterr().out.strip()
    assert table in (out / "README.md").read_text(encoding="utf-8")
    assert "1 steps of 256" in (out / "README.md").read_text(encoding="utf-8")
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in out.iterdir())  # others may read it
    before = (out / "model.safetensors").read_bytes()
    assert main([*sizes, "--measure-only"]) == 0
    assert capsys.readouterr().out.strip() == table
    assert (out / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "option"), [(["--steps", "0"], "--steps"), (["--samples", "20"], "--samples"), (["--measure-only"], "--out")]
)
def test_the_command_refuses_what_cannot_be(arguments, option, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert f"error: {option}" in capsys.readouterr().err


def test_table_and_assets():
    row = tiny_model.Row("all", 4, 0.5, 0.75, 1.0, 0.25, 0.125, 0.4321, 7.77)
    assert format_table([row]).splitlines()[-1] == "| all (4) | 0.500 | 0.750 | 1.000 | 0.25 | 0.125 | 0.432 | 7.8 |"
    assert asset("countdown_tiny_card.md").is_file()


def test_products_can_be_shown_rarely():
    """A quarter of 2-number, two fifths of 3-number and half of 4-number problems multiply or divide; of them a tenth stays."""

    tokenizer = build_tokenizer()

    def products(share):
        recipe = Recipe(steps=1, batch=300, products=share)
        batches = training_batches(tokenizer, recipe)
        texts = [tokenizer.decode(row) for parts in batches for ids, _ in parts for row in ids]
        return sum(bool({"*", "/"} & set(text)) for text in texts), len(texts)

    assert products(1.0)[0] > 90 and 0 < products(0.1)[0] < 30 and products(0.0)[0] == 0
    assert products(0.1)[1] == 300, "a batch is filled up"

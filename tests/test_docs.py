"""The documentation: the site builds without a warning, and each command on its pages is one that the command line takes."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from aer_lightning.__main__ import TOOLS, TRAINER_COMMANDS, main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs" / p for p in ("index.md", "concepts.md", "verifier.md", "migration.md")] + sorted((ROOT / "docs/howto").glob("*.md"))
FENCE = re.compile(r"^```bash( gpu)?\n(.*?)^```", re.M | re.S)


def commands():
    """(page, command line, needs a GPU) of every command of this package in a bash block."""
    for page in PAGES:
        for gpu, block in FENCE.findall(page.read_text()):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                if words[:3] == ["python", "-m", "aer_lightning"]:
                    yield page.stem, words[3:], bool(gpu)


@pytest.mark.parametrize(("page", "words", "gpu"), list(commands()), ids=lambda v: " ".join(v) if isinstance(v, list) else None)
def test_commands_are_taken(page, words, gpu, tmp_path, monkeypatch, capsys, random_model):
    """Those of the trainer are parsed to the end (also those for a GPU), the others run on small files."""
    command = words[0]
    assert command in TRAINER_COMMANDS or command in TOOLS
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", sys.argv[:1])
    if command == "grade":
        (tmp_path / "answers.jsonl").write_text(json.dumps({"id": 1, "gold": "2", "prediction": "\\boxed{2}"}) + "\n")
        monkeypatch.chdir(tmp_path)
    elif command in ("compare", "watch", "export"):
        call = [sys.executable, "-m", "aer_lightning", command, "--help"]
        done = subprocess.run(call, capture_output=True, text=True, check=True, cwd=ROOT)
        assert all(word.split("=")[0] in done.stdout for word in words if word.startswith("--"))
        return
    elif command in TRAINER_COMMANDS and not any(".help" in word for word in words):
        words = [*words, "--print_config"]
    try:
        status = main(words)
    except SystemExit as stop:
        status = stop.code or 0
    assert status == 0, capsys.readouterr().err


def test_most_commands_need_no_gpu():
    found = list(commands())
    assert len(found) >= 20 and sum(gpu for *_, gpu in found) <= 4


def test_files_that_pages_name_are_there():
    for page in PAGES:
        for name in re.findall(r"`((?:configs|examples|docker|docs|aer_lightning|tests)/[\w./-]+\.\w+)`", page.read_text()):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_options_of_the_migration_page_are_there():
    import inspect

    from aer_lightning import callbacks
    from aer_lightning.algorithms import ClipObjective
    from aer_lightning.data.datamodule import RolloutDataModule
    from aer_lightning.data.engines import VLLMEngine
    from aer_lightning.modules.policy import PolicyModule

    kinds = (RolloutDataModule, PolicyModule, ClipObjective, VLLMEngine)
    known = {name for kind in kinds for name in inspect.signature(kind.__init__).parameters} | set(dir(callbacks)) | {"VLLMEngine"}
    known |= {"grpo", "dr_grpo", "rloo", "grader", "model.init_args.optimizer.init_args.lr"}  # values, and what a part of the run has
    table = (ROOT / "docs/migration.md").read_text().partition("| what |")[2].partition("\n\n")[0]
    ours = [name for row in table.splitlines()[2:] for name in re.findall("`([^`]+)`", row.rsplit("|", 2)[1])]
    assert len(ours) > 25
    assert not [name for name in ours if name.removeprefix("model.init_args.") not in known and name not in known]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocstrings")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    options = (tmp_path / "site" / "reference" / "options" / "index.html").read_text()
    assert "responses_per_prompt" in options and "workspace_mb" in options and "int or None" in options
    assert "&amp;lt;" not in options
    yours = re.sub("<[^>]+>", "", (tmp_path / "site" / "howto" / "yours" / "index.html").read_text())
    assert "class SameNumber" in yours and "--8" not in yours, "files that a page includes are there"
    assert "```" not in yours, "every block is one"
    assert "check_gold" in (tmp_path / "site" / "reference" / "api" / "index.html").read_text()

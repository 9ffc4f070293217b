// Charts with hover and zoom and a browser of samples, in plain SVG. Text from runs goes in by textContent alone.
"use strict";
const COLOURS = ["#0b6e99", "#d1495b", "#edae49", "#3c8d5a", "#7d5ba6", "#5f6c7b", "#e07a3f", "#3aa6a6", "#a23b72", "#8a6d3b"];
const DASHES = ["", "9 4", "3 3", "12 4 3 4", "6 2", "2 5", "14 3", "5 5", "1 3", "10 2 2 2"];
const SVG = "http://www.w3.org/2000/svg";
const zooms = {};

function make(tag, attributes = {}, text = null, space = null) {
  const node = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  return node;
}
const svg = (tag, attributes, text = null) => make(tag, attributes, text, SVG);
const shown = v => v === null || v === undefined ? "–" : Math.abs(v) < 1e-12 ? "0" : Math.abs(v) >= 1000 ? v.toFixed(0) : +v.toPrecision(4) + "";

// Centred moving average over a 25th of the points, as in the pictures; shorter at the ends, without the places that have no value.
function smooth(points) {
  const half = Math.floor(points.length / 50);
  return points.map((p, i) => {
    const near = points.slice(Math.max(0, i - half), i + half + 1).map(q => q[1]).filter(v => v !== null);
    return [p[0], p[1] === null || !near.length ? null : near.reduce((a, b) => a + b, 0) / near.length];
  });
}

function ticks(low, high, count) {
  const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(f => f * power).find(s => s >= raw), result = [];
  for (let v = Math.ceil(low / step) * step; v <= high + 1e-9 * step; v += step) result.push(+v.toPrecision(12));
  return result;
}

// One panel. series: [{name, points: [[x, y], ...], level}], a level is a horizontal line.
function chart(panel) {
  const box = make("figure", {class: "chart"}), W = 520, H = 270, L = 52, R = 12, T = 10, B = 34;
  box.append(make("h3", {}, panel.title));
  const lines = panel.series.filter(s => s.points.length);
  if (!lines.length) { box.append(make("p", {class: "note"}, "not logged")); return box; }
  const all = lines.flatMap(s => s.points.filter(p => p[1] !== null)), xs = all.map(p => p[0]);
  const full = [Math.min(...xs), Math.max(...xs, Math.min(...xs) + 1)];
  let [x0, x1] = zooms[panel.title] || full;
  const inside = all.filter(p => p[0] >= x0 && p[0] <= x1).map(p => p[1]).concat((panel.levels || []).map(l => l.y));
  let y0 = Math.min(...inside), y1 = Math.max(...inside);
  const pad = (y1 - y0) * .06 || Math.abs(y1) * .1 || .1; y0 -= pad; y1 += pad;
  const X = v => L + (v - x0) / (x1 - x0) * (W - L - R), Y = v => H - B - (v - y0) / (y1 - y0) * (H - T - B);
  const root = svg("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": panel.title});
  for (const v of ticks(y0, y1, 5)) {
    root.append(svg("line", {x1: L, x2: W - R, y1: Y(v), y2: Y(v), class: "grid"}), svg("text", {x: L - 6, y: Y(v) + 4, class: "tick", "text-anchor": "end"}, shown(v)));
  }
  for (const v of ticks(x0, x1, 6)) root.append(svg("text", {x: X(v), y: H - B + 16, class: "tick", "text-anchor": X(v) > W - 30 ? "end" : "middle"}, shown(v)));
  root.append(svg("text", {x: W - R, y: H - 4, class: "tick", "text-anchor": "end"}, "rollouts"));
  const drawn = svg("svg", {x: L, y: T, width: W - L - R, height: H - T - B, viewBox: `${L} ${T} ${W - L - R} ${H - T - B}`}); // clips
  root.append(drawn);
  for (const level of panel.levels || []) {
    drawn.append(svg("line", {x1: L, x2: W - R, y1: Y(level.y), y2: Y(level.y), class: "level"}), svg("text", {x: W - R - 4, y: Y(level.y) + (Y(level.y) < T + 18 ? 14 : -4), class: "tick", "text-anchor": "end"}, level.name));
  }
  lines.forEach((s, i) => {
    // Coinciding lines: the first is the widest, later ones are narrower, dashed and on top.
    const style = {fill: "none", stroke: COLOURS[s.colour % 10], "stroke-width": Math.max(1.4, 3.4 - .5 * i), "stroke-dasharray": DASHES[i % 10], "stroke-linejoin": "round"};
    const draw = (points, look) => {
      let run = [];
      for (const p of [...points, [0, null]]) {
        if (p[1] !== null) { run.push(`${X(p[0]).toFixed(1)},${Y(p[1]).toFixed(1)}`); continue; }
        if (run.length > 1) drawn.append(svg("polyline", {...look, points: run.join(" ")}));
        run = [];
      }
    };
    const noisy = s.points.length >= 50; // single rollouts faintly, their moving average on top
    if (noisy) draw(s.points, {...style, "stroke-width": 1, "stroke-dasharray": "", opacity: .25});
    draw(noisy ? smooth(s.points) : s.points, style);
    if (s.points.length < 40) for (const p of s.points) if (p[1] !== null) drawn.append(svg("circle", {cx: X(p[0]), cy: Y(p[1]), r: 2.4, fill: style.stroke}));
  });
  const cross = svg("line", {y1: T, y2: H - B, class: "cross", visibility: "hidden"}), select = svg("rect", {y: T, height: H - T - B, class: "select", visibility: "hidden"});
  root.append(cross, select);
  const tip = make("div", {class: "tip", hidden: ""});
  const at = e => { const r = root.getBoundingClientRect(); return x0 + ((e.clientX - r.left) / r.width * W - L) / (W - L - R) * (x1 - x0); };
  let from = null;
  root.addEventListener("mousemove", e => {
    const v = Math.min(Math.max(at(e), x0), x1), near = all.reduce((a, b) => Math.abs(b[0] - v) < Math.abs(a[0] - v) ? b : a)[0];
    cross.setAttribute("x1", X(near)); cross.setAttribute("x2", X(near)); cross.setAttribute("visibility", "visible");
    tip.replaceChildren(make("b", {}, "rollout " + shown(near)));
    for (const s of lines) {
      const p = s.points.find(q => q[0] === near);
      if (p) { const row = make("div"), dot = make("span", {class: "swatch", style: `background:${COLOURS[s.colour % 10]}`}); row.append(dot, `${s.name}  ${shown(p[1])}`); tip.append(row); }
    }
    tip.hidden = false; const r = root.getBoundingClientRect(), left = e.clientX - r.left;
    tip.style.left = (left > r.width / 2 ? left - tip.offsetWidth - 14 : left + 14) + "px"; tip.style.top = "44px";
    if (from !== null) { const a = X(Math.min(from, v)), b = X(Math.max(from, v)); select.setAttribute("x", a); select.setAttribute("width", b - a); select.setAttribute("visibility", "visible"); }
  });
  root.addEventListener("mouseleave", () => { cross.setAttribute("visibility", "hidden"); tip.hidden = true; });
  root.addEventListener("mousedown", e => { from = Math.min(Math.max(at(e), x0), x1); e.preventDefault(); });
  root.addEventListener("mouseup", e => {
    const to = Math.min(Math.max(at(e), x0), x1), a = Math.min(from, to), b = Math.max(from, to); from = null;
    if (b - a > (x1 - x0) / 50) zooms[panel.title] = [a, b];
    box.replaceWith(chart(panel));
  });
  root.addEventListener("dblclick", () => { delete zooms[panel.title]; box.replaceWith(chart(panel)); });
  const legend = make("figcaption");
  lines.forEach((s, i) => {
    const key = svg("svg", {width: 26, height: 8}); key.append(svg("line", {x1: 0, x2: 26, y1: 4, y2: 4, stroke: COLOURS[s.colour % 10], "stroke-width": 3, "stroke-dasharray": DASHES[i % 10]}));
    const item = make("span", {class: "key"}); item.append(key, " " + s.name); legend.append(item);
  });
  if (zooms[panel.title]) legend.append(make("span", {class: "note"}, "double click: whole run"));
  box.append(root, tip, legend);
  return box;
}

const ALL = "\u0000";
// Completions of one prompt, those of one rollout side by side, rollouts from top to bottom; shading is entropy per token.
function browser(samples) {
  const box = make("div"), names = Object.keys(samples).filter(n => samples[n].length);
  if (!names.length) { box.append(make("p", {class: "note"}, "no samples.jsonl")); return box; }
  const runs = make("select", {"aria-label": "run"}), prompts = make("select", {"aria-label": "prompt"}), out = make("div");
  for (const name of names) runs.append(make("option", {value: name}, name));
  const bar = make("p"); bar.append(runs, " ", prompts, " ", make("span", {class: "note"}, "shading: entropy of the token, dark is 2 nat or more"));
  const show = () => {
    out.replaceChildren();
    const all = prompts.value === ALL, rows = samples[runs.value].filter(r => all || r.prompt === prompts.value);
    if (rows.length && !all) out.append(make("pre", {class: "prompt"}, rows[0].prompt));
    for (const rollout of [...new Set(rows.map(r => r.rollout))]) {
      out.append(make("h4", {}, "rollout " + rollout)); const line = make("div", {class: "side"}); out.append(line);
      for (const r of rows.filter(q => q.rollout === rollout)) {
        const card = make("div", {class: "card " + (r.outcome === "correct" ? "right" : "wrong")}), text = make("pre");
        if (r.token_texts) r.token_texts.forEach((t, i) => text.append(make("span", {style: `background:rgba(237,174,73,${Math.min(1, r.token_entropies[i] / 2).toFixed(2)})`, title: r.token_entropies[i] + " nat"}, t)));
        else text.textContent = r.completion;
        const facts = `${r.outcome} · reward ${shown(r.reward)} · g(q) ${shown(r.group_accuracy)} · λ(q) ${shown(r.coefficient)} · H ${shown(r.entropy)} nat · ${r.tokens} tokens`;
        if (all) card.append(make("pre", {class: "prompt"}, r.prompt));
        card.append(text, make("small", {}, facts)); line.append(card);
      }
    }
  };
  const list = () => {
    prompts.replaceChildren();
    const counts = new Map(); for (const r of samples[runs.value]) counts.set(r.prompt, (counts.get(r.prompt) || 0) + 1);
    const repeated = Math.max(...counts.values()) > 1; // endless sources ask nothing twice: then the rollouts are what can be compared
    if (!repeated) prompts.append(make("option", {value: ALL}, `every prompt (${samples[runs.value].length})`));
    for (const [p, n] of [...counts].sort((a, b) => b[1] - a[1])) prompts.append(make("option", {value: p}, `${p.slice(0, 70)} (${n})`));
    show();
  };
  runs.addEventListener("change", list); prompts.addEventListener("change", show);
  box.append(bar, out); list();
  return box;
}

function draw(data) {
  document.getElementById("charts").replaceChildren(...data.panels.map(chart));
  document.getElementById("samples").replaceChildren(browser(data.samples));
  const status = document.getElementById("status"); if (status) status.textContent = data.status;
}
draw(JSON.parse(document.getElementById("data").textContent));
if (document.body.dataset.live) setInterval(async () => {
  if (document.querySelector(".select[visibility=visible]") || document.activeElement.tagName === "SELECT") return;
  try { const answer = await fetch("data.json"); if (answer.ok) draw(await answer.json()); }
  catch { document.getElementById("status").textContent = "the server has stopped"; }
}, 4000);

"""How AER and its rivals answer to one entropy trajectory, what their losses cost, and the table of docs/methods.md.

    python benchmarks/methods.py            # measure, draw docs/images/methods.png, fill the table
    python benchmarks/methods.py --no-cost  # the picture and the table from the costs measured before

A new method is a line in ``METHODS`` and, if it follows the entropy, one in ``answers``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from kernels_common import FOLDER, RESULTS, environment, replace_section, save, table

from aer_lightning.algorithms import (
    AEntController,
    ClipCovObjective,
    ClipHighRule,
    ClipObjective,
    EntroPICObjective,
    FeedbackRule,
    GateRule,
    KLCovObjective,
    LossInputs,
    Objective,
    PIController,
    PositiveAdvantageObjective,
    PositiveWeightRule,
    REPORObjective,
    SelfAnchoredController,
    SkyworkController,
    STAREObjective,
    SureWeightRule,
    ZetaRule,
    entropy_bonus,
    peak_entropy_mask,
)
from aer_lightning.assets import resolve_model
from aer_lightning.modules.loading import load_causal_lm
from aer_lightning.modules.network import PolicyNetwork
from aer_lightning.rollout import Sample, make_pack

ROOT = FOLDER.parent
RESULT = RESULTS / "methods.json"
PAGE = ROOT / "docs/methods.md"
PICTURE = ROOT / "docs/images/methods.png"
INITIAL, TARGET = 0.5, 0.25  # nat
LOAD: dict[str, Any] = {"dtype": "float32", "trust_remote_code": False, "attn_implementation": None}
STEP = 80, 20  # responses and tokens of the passes of the model that are timed
RESPONSES, LENGTH = 64, 1024  # of the loss that is timed


@dataclass(frozen=True)
class Method:
    """A line of the table; ``bonus`` says what the entropy term costs beside the objective: none, whole or masked."""

    name: str
    rule: str
    needs: str
    code: str
    overlay: str
    source: str
    objective: Objective
    bonus: str = "none"
    extra: str = ""


CLIP = ClipObjective()
METHODS = [
    Method("GRPO", "clip 0.2, no entropy term", "-", "`ClipObjective`", "grpo", "2402.03300", CLIP),
    Method("on-policy GRPO", "one optimizer step a rollout", "-", "`ClipObjective`", "on_policy", "2603.11682", CLIP),
    Method(
        "AER", "bonus α w(g) H; α by a PI controller towards τ H₀", "anchor", "`GlobalCoefficient`, `DifficultyCoefficient`", "aer",
        "2510.10959", CLIP, "whole",
    ),
    Method("constant coefficient", "bonus λ H", "-", "`FixedCoefficient`", "fixed_entropy", "1602.01783", CLIP, "whole"),
    Method(
        "Skywork-OR1", "bonus c H while H ≤ target; c ± δ", "target in nat", "`SkyworkCoefficient`", "skywork", "2505.22312", CLIP, "whole"
    ),
    Method(
        "AEnt", "bonus α H over the top 60 % of the vocabulary; α rests inside a band", "band in nat", "`AEntCoefficient`", "aent",
        "2509.03493", CLIP, "whole", "the head twice",
    ),
    Method(
        "SIREN", "bonus on top-p and peak-entropy tokens, coefficient 2c (H_a − H)", "anchor of its own entropy", "`SIRENCoefficient`",
        "siren", "2509.25133, eq. 9", CLIP, "masked", "the head twice",
    ),
    Method(
        "REPO-R", "A⁺ (1 − ζ log π), A⁻ (1 + ζ log π); ζ doubles below the target, halves above", "anchor (τ 1)",
        "`REPORScale`, `REPORObjective`", "repo_r", "2603.11682, App. D.2", REPORObjective(),
    ),
    Method(
        "ADAPO", "upper clip × 2 below the target, ÷ 2 above", "anchor (τ 1), 2 or more steps", "`ADAPOClip`, `ClipObjective`", "adapo",
        "2603.11682", CLIP,
    ),
    Method(
        "STARE", "weight 1.1 on the most surprising right tokens below the target", "anchor", "`STAREGate`, `STAREObjective`", "stare",
        "2606.19236, sec. 4", STAREObjective(), extra="a scoring pass",
    ),
    Method(
        "EntroPIC", "weights 1 ± α on sure tokens; α = kp e + ki Σe, e = H − H*", "anchor", "`EntroPICWeight`, `EntroPICObjective`",
        "entropic", "2511.15248", EntroPICObjective(alpha=0.1),
    ),
    Method(
        "Pos-Adv-Reweight", "weight λ on right tokens; λ ∓ 0.05 below / above the target", "anchor",
        "`PositiveAdvantageWeight`, `PositiveAdvantageObjective`", "pos_adv", "2511.05993, sec. 7.3", PositiveAdvantageObjective(0.5),
    ),
    Method(
        "Clip-Cov", "no gradient on 0.02 % of tokens of high covariance", "-", "`ClipCovObjective`", "clip_cov", "2505.22617",
        ClipCovObjective(), extra="a scoring pass",
    ),
    Method(
        "KL-Cov", "KL to the old policy on the 0.2 % of highest covariance", "2 or more steps", "`KLCovObjective`", "kl_cov", "2505.22617",
        KLCovObjective(), extra="a scoring pass",
    ),
    Method(
        "DAPO", "clip 0.2 / 0.28, dynamic sampling, overlong penalty", "2 or more steps", "`ClipObjective`", "dapo", "2503.14476",
        ClipObjective(clip_high=0.28), extra="further completions",
    ),
]  # fmt: skip


def trajectory() -> list[float]:
    """H_k in nat of 160 rollouts: it rests at H_0, collapses, explodes and comes to rest at the target, with a ripple as of sampling."""
    points = [(0, INITIAL), (20, INITIAL), (60, 0.1), (75, 0.1), (105, 0.7), (130, TARGET), (159, TARGET)]
    values = []
    for (start, a), (end, b) in pairwise(points):
        values += [a + (b - a) * (0.5 - 0.5 * math.cos(math.pi * (k - start) / (end - start))) for k in range(start, end)]
    return [value + 0.01 * math.sin(2.1 * k) for k, value in enumerate([*values, TARGET])]


def answers(entropies: list[float], target: float) -> dict[str, tuple[str, list[float]]]:
    """What acts in each rollout, by method: the name of the number and its values. All follow the same target."""

    def follow(rule: FeedbackRule) -> list[float]:
        state, seen = rule.start(), []
        for entropy in entropies:
            seen.append(state.value)
            state = rule.update(state, entropy, target)
        return seen

    def coefficients(step: Any, start: float, applied: Any = lambda alpha, _: alpha) -> list[float]:
        alpha, before, seen = start, None, []
        for entropy in entropies:
            seen.append(applied(alpha, before))
            alpha, before = step(alpha, entropy, before), entropy
        return seen

    pi, skywork, siren = PIController(), SkyworkController(target=target), SelfAnchoredController()
    aent = AEntController(entropy_low=0.8 * target, entropy_high=1.2 * target, lr=0.1)
    return {
        "AER": ("coefficient α", coefficients(lambda alpha, h, before: pi.update(alpha, h, target, before), 0.0)),
        "Skywork-OR1": ("coefficient", coefficients(lambda alpha, h, _: skywork.update(alpha, h), 0.0, skywork.applied)),
        "AEnt": ("coefficient α", coefficients(lambda alpha, h, _: aent.update(alpha, h), 0.0)),
        "SIREN": ("coefficient α", coefficients(lambda _, h, __: siren.update(h, target), 0.0)),
        "REPO-R": ("advantage scale ζ", follow(ZetaRule())),
        "ADAPO": ("upper clip distance", follow(ClipHighRule())),
        "STARE": ("weight of surprises", follow(GateRule())),
        "EntroPIC": ("± weight of sure tokens α", follow(SureWeightRule())),
        "Pos-Adv-Reweight": ("weight of right tokens λ", follow(PositiveWeightRule())),
    }


def draw(entropies: list[float], target: float, found: dict[str, tuple[str, list[float]]]) -> None:
    """The trajectory, and below it one panel for each method; shaded where the last rollout was below the target."""
    from aer_lightning.reporting.style import INK, MUTED, PALETTE, grid, mark_level, png, style, write_atomically

    below = [False, *(h < target for h in entropies[:-1])]
    with style():
        figure, axes = grid(1 + len(found), 5, width=3.5, height=2.6)
        panels = [("the entropy that all see", "nat", entropies, INK)]
        panels += [(name, unit, values, PALETTE[0]) for name, (unit, values) in found.items()]
        for place, (title, unit, values, color) in zip(axes, panels, strict=True):
            place.plot(values, color=color, drawstyle="steps-post" if place is not axes[0] else "default")
            for start in (k for k in range(1, len(below)) if below[k] and not below[k - 1]):
                end = next((k for k in range(start, len(below)) if not below[k]), len(below))
                place.axvspan(start, end, color=PALETTE[2], alpha=0.18, linewidth=0)
            place.set(title=title, ylabel=unit, xlabel="rollout", xlim=(0, len(values) - 1))
        mark_level(axes[0], target, "H*", color=MUTED)
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(PICTURE, png(figure, dpi=110))


def fabricated() -> LossInputs:
    """A step of 65,536 tokens in fp32, as a trainer hands it over."""
    generator = torch.Generator().manual_seed(0)
    logprob = -torch.empty(RESPONSES, LENGTH).exponential_(generator=generator)
    entropy = torch.rand(RESPONSES, LENGTH, generator=generator)
    return LossInputs(
        logprob=logprob.requires_grad_(),
        old_logprob=logprob.detach() + 0.05 * torch.randn(RESPONSES, LENGTH, generator=generator),
        advantage=torch.randn(RESPONSES, generator=generator),
        mask=torch.arange(LENGTH)[None] < torch.randint(LENGTH // 4, LENGTH, (RESPONSES, 1), generator=generator),
        num_tokens=RESPONSES * LENGTH,
        num_sequences=RESPONSES,
        max_tokens=LENGTH,
        entropy=entropy,
    )


def once(method: Method, inputs: LossInputs) -> float:
    """Seconds of one forward and backward pass of a method's loss over its token statistics."""
    entropy = inputs.entropy.clone().requires_grad_() if inputs.entropy is not None else inputs.logprob
    started = time.perf_counter()
    loss, _ = method.objective(inputs)
    if method.bonus != "none":
        mask = peak_entropy_mask(entropy, inputs.mask, 0.8) if method.bonus == "masked" else inputs.mask
        loss = loss - entropy_bonus(entropy, mask, torch.full((RESPONSES,), 0.1), inputs.num_tokens)
    loss.backward()
    return time.perf_counter() - started


def costs(repeats: int) -> Iterator[tuple[str, float]]:
    """Milliseconds of each loss, the fastest time, the methods taking turns."""
    inputs = fabricated()
    seconds: dict[str, list[float]] = {m.name: [] for m in METHODS}
    for _ in range(repeats):
        for method in METHODS:
            seconds[method.name].append(once(method, inputs))
    for name, values in seconds.items():
        yield name, 1e3 * min(values)


def passes(repeats: int) -> dict[str, float]:
    """Milliseconds of the shipped model on ``STEP``: a training pass, a scoring pass, a training pass with the head twice."""
    network = PolicyNetwork(load_causal_lm(str(resolve_model("countdown-tiny")), **LOAD))
    count, n = STEP
    ids = [[3 + (i + t) % 12 for t in range(n)] for i in range(count)]
    samples = [Sample("", "", 0, i, row, row, torch.zeros(n), "stop") for i, row in enumerate(ids)]
    pack = make_pack(samples)

    def train(top: dict[str, float] | None) -> None:
        logprob, *entropies = network.score(pack, 1.0, top)
        (logprob.mean() + entropies[-1].mean()).backward()

    def score() -> None:
        with torch.no_grad():
            network.score(pack, 1.0)

    work = {"training": lambda: train(None), "scoring": score, "training, the head twice": lambda: train({"entropy_top_p": 0.8})}
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: round(1e3 * min(values), 1) for name, values in seconds.items()}


def main(argv: list[str] | None = None) -> None:
    """Measure, draw, and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-cost", action="store_true", help="keep the costs measured before")
    parser.add_argument("--repeats", type=int, default=100, help="timings of each loss")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--machine", default="2-core Intel Xeon, 24 GiB, no GPU; shared with other work", help="named in the page")
    options = parser.parse_args(argv)
    if options.no_cost:
        result = json.loads(RESULT.read_text())
    else:
        torch.set_num_threads(options.threads)
        list(costs(2))  # warm up
        result = environment(options.machine) | {
            "threads": options.threads,
            "tokens": RESPONSES * LENGTH,
            "milliseconds": {name: round(value, 2) for name, value in costs(options.repeats)},
            "passes": passes(options.repeats // 5 + 1),
        }
        save(result, RESULT)
    entropies = trajectory()
    draw(entropies, TARGET, answers(entropies, TARGET))
    rows = []
    for m in METHODS:
        cost = f"{result['milliseconds'][m.name]:.1f} ms{' + ' + m.extra if m.extra else ''}"
        rows.append([m.name, m.rule, m.needs, m.code, f"`{m.overlay}`", cost, m.source])
    header = ["method", "rule", "needs", "callback, objective", "overlay", "cost per step", "source (arXiv)"]
    replace_section(PAGE, "methods", table(header, rows))
    where = f"torch {result['versions']['torch']}, {result['threads']} thread, {result['machine']}, {result['date']}"
    training, scoring, twice = result["passes"].values()
    note = (
        f"Cost: forward and backward of the loss over the statistics of {result['tokens']:,} tokens in fp32, the fastest of many, the "
        f"methods taking turns. For comparison the shipped model on a step of {STEP[0]} responses of {STEP[1]} tokens: {training} ms for "
        f"forward and backward, {twice} ms with the head twice, {scoring} ms for a scoring pass ({where})."
    )
    replace_section(PAGE, "cost", note)


if __name__ == "__main__":
    main()

"""What the study runs: methods, their search, their seeds; a table that ``configs/study/plan.yaml`` fills."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aer_lightning.errors import ConfigError
from aer_lightning.study.configuration import Config, change, look_up, merge, read_yaml
from aer_lightning.study.findings import Claims

DATA = "data.init_args."
SECTIONS = {"base", "setting", "seeds", "seed_options", "rollouts", "methods", "reports", "claims", "cost"}
OPTIONAL = {"search", "quick"}  # without the first no method has candidates, without the second there is no --quick


@dataclass(frozen=True)
class Method:
    """One line of the plan.

    Attributes:
        name: of its runs.
        overlay: file over the base, None for the base itself.
        like: another method whose overlay (without an own one), changes and chosen candidate it takes over where they apply.
        changes: single options, see ``change``.
        candidates: what the search tries; empty for none.
        seeds: how many of the plan's seeds it runs with; all if None.
        cost: completions generated per completion trained on, for the estimate of time.
    """

    name: str
    overlay: str | None = None
    like: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    candidates: tuple[Mapping[str, Any], ...] = ()
    seeds: int | None = None
    cost: float = 1.0


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        method: its name.
        label: what is shown and what its folder is called, such as ``seed1``.
        folder: of its files, relative to the study's.
        config: the whole configuration.
        rollouts: its length.
        cost: see ``Method``.
    """

    method: str
    label: str
    folder: Path
    config: Config
    rollouts: int
    cost: float = 1.0

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.method} {self.label}"


@dataclass(frozen=True)
class Plan:
    """The whole study; see ``read_plan``."""

    base: str
    setting: Config
    methods: Mapping[str, Method]
    seeds: Sequence[int]
    rollouts: int
    seed_options: Sequence[str]
    search_seed: int
    search_rollouts: int
    search_changes: Mapping[str, Any]
    search_ks: Sequence[int]
    reports: Mapping[str, Sequence[str]]
    claims: Claims
    cost: Mapping[str, float]
    options: Mapping[str, Any] = field(default_factory=dict)  # of every run, whatever the plan says

    def searched(self) -> list[Method]:
        """Methods with a search."""
        return [m for m in self.methods.values() if m.candidates]

    def search_runs(self) -> list[Run]:
        """One run per candidate."""
        return [
            self._run(m, f"candidate{i}", Path("search", m.name, str(i)), self.search_seed, self.search_rollouts, {m.name: c}, search=True)
            for m in self.searched()
            for i, c in enumerate(m.candidates)
        ]

    def final_runs(self, chosen: Mapping[str, Mapping[str, Any]]) -> list[Run]:
        """Every method with every seed.

        All methods of a seed come before the next seed, and those with fewer seeds come last, so that a study cut short has whole seeds
        of what matters most. Two methods with one configuration share a run.

        Args:
            chosen: the candidate that the search chose, by method; the first one for a method that is not there.
        """
        chosen = {m.name: m.candidates[0] for m in self.searched()} | dict(chosen)
        runs = [
            self._run(m, f"seed{seed}", Path(m.name, f"seed{seed}"), seed, self.rollouts, chosen)
            for whole in (True, False)
            for i, seed in enumerate(self.seeds)
            for m in self.methods.values()
            if (m.seeds is None) is whole and (m.seeds is None or i < m.seeds)
        ]
        keys = [json.dumps(run.config | {"name": ""}, sort_keys=True) for run in runs]
        first = dict(zip(reversed(keys), reversed(runs), strict=True))
        return [replace(run, folder=first[key].folder, config=first[key].config) for key, run in zip(keys, runs, strict=True)]

    def _run(
        self, method: Method, label: str, folder: Path, seed: int, rollouts: int, chosen: Mapping[str, Any], search: bool = False
    ) -> Run:
        config = self.configuration(method, chosen)
        config = change(config, self.search_changes) if search else config
        config = change(config, dict.fromkeys(self.seed_options, seed))
        per_epoch = look_up(config, f"{DATA}rollouts_per_epoch")
        if not per_epoch or rollouts % per_epoch:
            raise ConfigError(f"rollouts: {rollouts} rollouts are no multiple of {DATA}rollouts_per_epoch={per_epoch}")
        epochs = rollouts // per_epoch
        every = look_up(config, "trainer.check_val_every_n_epoch") or epochs
        if epochs % every:
            raise ConfigError(f"trainer.check_val_every_n_epoch: {every} leaves the last of {epochs} epochs without an evaluation")
        config = change(config, {"name": method.name, "trainer.max_epochs": epochs, "trainer.check_val_every_n_epoch": every})
        return Run(method.name, label, folder, config, rollouts, method.cost)

    def configuration(self, method: Method, chosen: Mapping[str, Mapping[str, Any]]) -> Config:
        """Of a method: base, overlay, setting (whose sizes so apply to all), changes, the chosen candidate, every run's options."""
        parent = self.methods[method.like] if method.like else None
        config = read_yaml(self.base)
        overlay = method.overlay or (parent.overlay if parent else None)
        if overlay is not None:
            config = merge(config, read_yaml(overlay))
        config = merge(config, self.setting)
        if parent is not None:
            config = change(config, {**parent.changes, **chosen.get(parent.name, {})}, skip_missing=True)
        config = change(config, {**method.changes, **chosen.get(method.name, {})})
        return change(config, self.options, skip_missing=True)

    def seconds(self, run: Run, per_rollout: float | None = None) -> float:
        """Estimated time of a run on one core; ``per_rollout`` takes the place of the plan's figure."""
        evaluation = run.config["data"]["init_args"].get("evaluation") or []
        problems = sum(source["init_args"].get("size") or 0 for source in evaluation)
        samples = problems * (look_up(run.config, f"{DATA}eval_samples") or 0)
        rollout = self.cost["rollout"] if per_rollout is None else per_rollout
        return self.cost["start"] + run.rollouts * rollout * run.cost + samples * self.cost["evaluation_sample"]


def read_plan(path: Path | str, quick: bool = False, only: Iterable[str] = ()) -> Plan:
    """Read a plan.

    Args:
        path: the file.
        quick: shrink it as its ``quick`` section says.
        only: names of the methods to keep; all if empty.

    Raises:
        ConfigError, DataError: names the file and what is wrong with it.
    """
    raw = read_yaml(path)
    if wrong := (set(raw) - OPTIONAL) ^ SECTIONS:
        raise ConfigError(f"{path}: {', '.join(sorted(wrong))}: a plan has the sections {', '.join(sorted(SECTIONS | OPTIONAL))}")
    if quick and "quick" not in raw:
        raise ConfigError(f"{path}: quick: --quick needs this section, which says how the plan is made small")
    methods = {name: _method(path, name, options or {}) for name, options in raw["methods"].items()}
    setting, search = read_yaml(raw["setting"]), raw.get("search") or {}
    if not search and (searched := [name for name, method in methods.items() if method.candidates]):
        raise ConfigError(f"{path}: search: is missing, but methods.{searched[0]} has candidates")
    plan = Plan(
        base=raw["base"],
        setting=setting,
        methods=methods,
        seeds=raw["seeds"],
        rollouts=raw["rollouts"],
        seed_options=raw["seed_options"],
        search_seed=search.get("seed", -1),  # no seed of a run is negative
        search_rollouts=search.get("rollouts", 0),
        search_changes=search.get("set") or {},
        search_ks=search.get("ks") or (),
        reports=raw["reports"],
        claims=Claims.of(raw["claims"], str(path)),
        cost=raw["cost"],
    )
    only = list(only)
    if quick:
        small = raw["quick"]
        only = only or small["methods"]
        kept = {name: replace(m, candidates=m.candidates[: small["candidates"]]) for name, m in methods.items()}
        plan = replace(
            plan,
            setting=change(setting, small["set"]),
            methods=kept,
            seeds=small["seeds"],
            rollouts=small["rollouts"],
            search_rollouts=small["rollouts"],
            search_changes={**plan.search_changes, **small["search_set"]},
            search_ks=small["ks"],
        )
    _check(path, plan, only)
    if only:
        needed = {name: m for name, m in plan.methods.items() if name in only or any(plan.methods[o].like == name for o in only)}
        plan = replace(plan, methods=needed)
    return plan


def _method(path: Path | str, name: str, options: Mapping[str, Any]) -> Method:
    if unknown := set(options) - {"overlay", "like", "set", "search", "seeds", "cost"}:
        raise ConfigError(f"{path}: methods.{name}.{unknown.pop()}: a method has overlay, like, set, search, seeds and cost")
    return Method(
        name,
        overlay=options.get("overlay"),
        like=options.get("like"),
        changes=options.get("set") or {},
        candidates=_candidates(path, name, options.get("search") or ()),
        seeds=options.get("seeds"),
        cost=float(options.get("cost", 1.0)),
    )


def _candidates(path: Path | str, name: str, search: Any) -> tuple[Mapping[str, Any], ...]:
    """``{a: [1, 2], b: [3, 4]}`` is two candidates, a 1 with b 3 and a 2 with b 4; a list is that of the candidates."""
    if not isinstance(search, Mapping):
        return tuple(search)
    if len({len(values) if isinstance(values, list) else 0 for values in search.values()} | {0}) != 2:
        raise ConfigError(f"{path}: methods.{name}.search: must have a list for each option, all of the same length")
    return tuple(dict(zip(search, values, strict=True)) for values in zip(*search.values(), strict=True))


def _check(path: Path | str, plan: Plan, only: Iterable[str]) -> None:
    for what, names in [
        ("--only", only),
        (f"{path}: claims", plan.claims.names()),
        *((f"{path}: reports.{r}", names) for r, names in plan.reports.items()),
    ]:
        if unknown := [name for name in names if name not in plan.methods]:
            raise ConfigError(f"{what}: no method {unknown[0]!r} in the plan; it has {', '.join(plan.methods)}")
    for method in plan.methods.values():
        if method.like is not None and (method.like not in plan.methods or plan.methods[method.like].like):
            raise ConfigError(f"{path}: methods.{method.name}.like: {method.like!r} is no method that stands for itself")
    counts = {len(m.candidates) for m in plan.searched()}
    if len(counts) > 1:
        raise ConfigError(f"{path}: searches of {sorted(counts)} candidates; give each method the same number, so that none is favoured")
    if len(set(plan.seeds)) != len(plan.seeds) or plan.search_seed in plan.seeds:
        raise ConfigError(f"{path}: seeds: {[*plan.seeds, plan.search_seed]} (the last one the search's) must all differ")

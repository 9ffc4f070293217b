"""What ``plan`` says beside what a fit holds: ``python benchmarks/plan_check.py``, into results/plan.json and docs/memory.md.

Small random models are trained for two rollouts, on one process and on two that share them by FSDP2 (gloo). Each phase's peak of resident
memory is the kernel's own mark (VmHWM), which is set back where a phase begins; the floor is the same fit of a model of some 20,000
parameters, phase by phase. Blocks of 64 KiB and more go back to the system when they are freed, so that resident memory is what is held.
On a CUDA device ``--cuda`` compares ``max_memory_allocated`` instead.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "plan.json"
PAGE = ROOT / "docs" / "memory.md"
BEGIN, END = "<!-- plan-check -->", "<!-- /plan-check -->"
GIB, MIB = 2**30, 2**20
BAR = 0.10
PROMPT = COMPLETION = 64  # tokens of every sequence's parts
SEQUENCES, PACK = 8, 512
# kind, hidden, inner width, layers, heads, heads of keys, vocabulary, tied
MODELS = {
    "qwen3-10m": ("qwen3", 256, 768, 6, 4, 2, 8192, False),
    "qwen3-20m": ("qwen3", 384, 1152, 8, 6, 2, 8192, False),
    "llama-60m": ("llama", 576, 1536, 12, 9, 3, 32768, True),
    "qwen3-120m": ("qwen3", 768, 2048, 11, 12, 4, 32768, False),
}
FLOOR = ("qwen3", 16, 32, 2, 2, 1, 64, False)
PHASES = ("sync", "generate", "score", "train", "checkpoint")
QUIET = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_TOP_PAD_": "0",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "GLOO_SOCKET_IFNAME": "lo",
    "PYTHONPATH": str(ROOT),
}


def build(folder: Path, shape: tuple[Any, ...]) -> None:
    """Save a random model with the character tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    from aer_lightning.tiny_model import build_tokenizer

    kind, hidden, inner, layers, heads, key_heads, vocabulary, tied = shape
    tokenizer = build_tokenizer()
    config, model = (Qwen3Config, Qwen3ForCausalLM) if kind == "qwen3" else (LlamaConfig, LlamaForCausalLM)
    torch.manual_seed(0)
    values = config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=hidden // heads,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model(values).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def prompts(path: Path) -> None:
    """Problems of exactly ``PROMPT`` characters, each a token."""
    lines = [{"id": str(i), "problem": f"{i:03d}+" + "1+" * (PROMPT // 2 - 3) + "1=", "answer": str(i)} for i in range(64)]
    assert all(len(line["problem"]) == PROMPT for line in lines), len(lines[0]["problem"])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def arguments(folder: Path, run: Path | None, processes: int, extra: list[str]) -> list[str]:
    """Options of ``fit`` and ``plan``."""
    values: dict[str, Any] = {
        "trainer.max_epochs": 1,
        "trainer.logger": "false",
        "trainer.limit_val_batches": 0,
        "model.init_args.pretrained": folder,
        "data.init_args.engine": "TransformersEngine",
        "data.init_args.prompts": "JsonlPrompts",
        "data.init_args.prompts.path": folder.parent / "prompts.jsonl",
        "data.init_args.evaluation": "[]",
        "data.init_args.prompts_per_rollout": 4,
        "data.init_args.responses_per_prompt": SEQUENCES // 4,
        "data.init_args.tokens_per_micro_batch": PACK,
        "data.init_args.rollouts_per_epoch": 2,
        "data.init_args.max_prompt_tokens": PROMPT,
        "data.init_args.max_new_tokens": COMPLETION,
        "data.init_args.scoring_pass": "always",
        "initial_validation.enabled": "false",
        "checkpoint.every_n_rollouts": 1,
        "checkpoint.keep_last": 1,
        "curves.enabled": "false",
        "export.enabled": "false",
    }
    if run is not None:
        values["run_dir"] = run
    sharded = ["-c", "configs/strategy/fsdp2.yaml", f"--trainer.devices={processes}"] if processes > 1 else []
    return ["-c", "configs/aer.yaml", *sharded, *(f"--{name}={value}" for name, value in values.items()), *extra]


class Marks:
    """Peak of memory by phase, of this process."""

    def __init__(self, cuda: bool) -> None:
        self.cuda = cuda
        self.phase = "start"
        self.peaks: dict[str, int] = {}

    def enter(self, phase: str) -> None:
        """Note the peak of the phase that ends, and begin another."""
        self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), self._peak())
        self.phase = phase
        if self.cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def _peak(self) -> int:
        if self.cuda:
            import torch

            return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def fit(options: argparse.Namespace) -> int:
    """One rank's fit, with a mark at every change of phase."""
    from aer_lightning.__main__ import main
    from aer_lightning.callbacks.checkpoint import RolloutCheckpoint
    from aer_lightning.modules.memory import MemorySchedule
    from aer_lightning.modules.policy import PolicyModule

    marks = Marks(options.cuda)

    def before(owner: type, name: str, phase: str, when: Callable[[Any], bool]) -> None:
        inner = getattr(owner, name)

        def marked(self: Any, *args: Any, **kwargs: Any) -> Any:
            if when(self):
                marks.enter(phase)
            return inner(self, *args, **kwargs)

        setattr(owner, name, marked)

    room = MemorySchedule.make_room

    def made(self: Any) -> None:
        room(self)  # frees the gradients: they belong to what came before
        marks.enter("sync")

    MemorySchedule.make_room = made  # type: ignore[method-assign]
    before(MemorySchedule, "hand_over", "generate", lambda schedule: not schedule.generating)
    before(MemorySchedule, "take_back", "score", lambda schedule: schedule.generating)
    before(PolicyModule, "training_step", "train", lambda _: True)
    save = RolloutCheckpoint.save

    def saved(self: Any, wait: bool = False) -> Any:
        marks.enter("checkpoint")
        path = save(self, wait=True)  # so that the phases do not overlap
        self._saver._executor.submit(int).result()  # the writing thread has let go of its copy
        marks.enter("between")
        return path

    RolloutCheckpoint.save = saved  # type: ignore[method-assign]
    status = main(["fit", *arguments(options.fit, options.run, options.processes, options.extra)])
    marks.enter("end")
    out = options.run.with_name(f"{options.run.name}-rank{os.environ.get('LOCAL_RANK', '0')}.json")
    out.write_text(json.dumps(marks.peaks))
    return status


def measured(folder: Path, processes: int, cuda: bool, extra: list[str]) -> dict[str, int]:
    """Peaks by phase of the rank that holds most."""
    run = folder.parent / f"run-{folder.name}-{processes}"
    command = [sys.executable, __file__, "--fit", str(folder), "--run", str(run), "--processes", str(processes)]
    done = subprocess.run(
        [*command, *(["--cuda"] if cuda else []), "--", *extra],
        cwd=ROOT,
        env=os.environ | QUIET,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    shares = [json.loads(run.with_name(f"{run.name}-rank{rank}.json").read_text()) for rank in range(processes)]
    return {phase: max(share.get(phase, 0) for share in shares) for phase in ("start", *PHASES)}


def planned(folder: Path, processes: int, cuda: bool, extra: list[str]) -> dict[str, Any]:
    """What the command says."""
    import torch

    device = f"{torch.cuda.get_device_properties(0).total_memory / GIB:.2f}" if cuda else "cpu"
    command = [sys.executable, "-m", "aer_lightning", "plan", "--gpu", device, "--json", *arguments(folder, None, processes, extra)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | QUIET, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def compared(plan: dict[str, Any], peaks: dict[str, int], floor: dict[str, int], cuda: bool) -> dict[str, Any]:
    """Planned and measured MiB above the floor, by phase and for the peak of all, with the error of the plan.

    What is allocated on a CUDA device knows nothing of the context that the plan counts as a buffer.
    """
    phases, base = {}, {phase: floor[phase] / MIB for phase in PHASES}
    for phase in PHASES:
        row, found = plan["phases"][phase], peaks[phase] / MIB - base[phase]
        said = (row["total_gib"] - row["buffers_gib"]) * 1024 if cuda else row["total_gib"] * 1024 - base[phase]
        phases[phase] = {"planned_mib": round(said), "measured_mib": round(found), "error": round(said / found - 1, 4)}
    said, found = (max(phases[p][what] for p in PHASES) for what in ("planned_mib", "measured_mib"))
    peak = {"planned_mib": said, "measured_mib": found, "error": round(said / found - 1, 4)}
    return {"parameters": plan["parameters"], "floor_mib": round(max(base.values())), "peak": peak, "phases": phases}


def write_page(rows: list[dict[str, Any]]) -> None:
    """The table in docs/memory.md, between its marks."""
    lines = ["| model | processes | " + " | ".join([*PHASES, "peak"]) + " | error |", "|---|---:|" + "---:|" * (len(PHASES) + 2)]
    for row in (r for r in rows if r["device"] == "cpu"):
        cells = [f"{c['planned_mib']} / {c['measured_mib']}" for c in [*(row["phases"][p] for p in PHASES), row["peak"]]]
        lines.append(f"| {row['model']} | {row['processes']} | " + " | ".join(cells) + f" | {row['peak']['error']:+.1%} |")
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(BEGIN) + len(BEGIN)] + "\n" + "\n".join(lines) + "\n" + text[text.index(END) :])


def main() -> int:
    """Measure, compare, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS)[:3], help="qwen3-120m needs 5 GiB")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--fit", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("extra", nargs="*", help="further options of fit and plan, after --")
    options = parser.parse_args()
    if options.fit is not None:
        options.processes = options.processes[0]
        return fit(options)
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    with tempfile.TemporaryDirectory() as scratch:
        prompts(Path(scratch) / "prompts.jsonl")
        build(Path(scratch) / "floor", FLOOR)
        for processes in options.processes:
            floor = measured(Path(scratch) / "floor", processes, options.cuda, options.extra)
            for name in options.models:
                folder = Path(scratch) / name
                if not folder.exists():
                    build(folder, MODELS[name])
                plan = planned(folder, processes, options.cuda, options.extra)
                row = compared(plan, measured(folder, processes, options.cuda, options.extra), floor, options.cuda)
                row |= {"model": name, "processes": processes, "device": "cuda" if options.cuda else "cpu"}
                key = ("model", "processes", "device")
                rows = [*(r for r in rows if [r[k] for k in key] != [row[k] for k in key]), row]
                rows.sort(key=lambda r: (r["device"], r["processes"], r["parameters"]))
                RESULTS.write_text(json.dumps({"date": str(date.today()), "rows": rows}, indent=1) + "\n")
                print(f"{name}, {processes} process(es): peak {row['peak']['error']:+.1%}", flush=True)
    if not options.cuda:
        write_page(rows)
    worst = max(abs(row["peak"]["error"]) for row in rows if row["device"] == ("cuda" if options.cuda else "cpu"))
    print(f"largest error of a peak: {worst:.1%}; the bar is {BAR:.0%}")
    return 0 if worst <= BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())

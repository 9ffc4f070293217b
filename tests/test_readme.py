"""The README's lines for other trainers run as they stand, and name what is there."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

LOOP = """
import sys
import torch
torch.manual_seed(0)
B, T, D, V = 4, 5, 8, 11
head = torch.nn.Linear(D, V, bias=False)
body = torch.nn.Linear(D, D)
optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
mask = torch.arange(T)[None] < torch.tensor([5, 3, 4, 1])[:, None]
states, ids = torch.randn(int(mask.sum()), D), torch.randint(0, V, (int(mask.sum()),))
pad = lambda t: torch.zeros(B, T).masked_scatter(mask, t)
hidden = body(states)
old = pad(torch.log_softmax(hidden @ head.weight.T, -1).gather(1, ids[:, None])[:, 0]).detach()
advantage, accuracy = torch.tensor([1.0, -1.0, 0.5, -0.5]), torch.tensor([0.0, 0.0, 0.5, 0.5])
tokens, sequences, limit, alpha = float(mask.sum()), float(B), T, 0.1
step_entropy, initial_entropy, last_entropy = 0.3, 1.0, 0.35
{lines}
assert all(p.grad is not None and p.grad.norm() > 0 for p in (body.weight, head.weight))
assert abs(alpha - 0.1) > 1e-6
heavy = [name for name in ("lightning", "transformers", "vllm", "jsonargparse") if name in sys.modules]
assert not heavy, heavy
"""


def test_ten_lines_beside_another_trainer():
    (lines,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len([line for line in lines.splitlines() if line.strip()]) <= 10
    done = subprocess.run([sys.executable, "-c", LOOP.format(lines=lines)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_its_links_lead_somewhere_and_it_stays_short():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    assert len(README.splitlines()) < 150

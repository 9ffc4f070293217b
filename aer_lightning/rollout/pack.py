"""One pack as tensors: a row of several sequences, and the per-token values of their completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from aer_lightning.rollout.sample import Sample


@dataclass(frozen=True)
class Pack:
    """Sequences computed together: b sequences of T tokens in one row, N completion tokens among them, at most R in one completion.

    Per-token tensors of the loss are ``[b, R]``, aligned with the completion's first token and padded on the right with 0.

    Attributes:
        input_ids: [T] token ids, prompt and completion of one sequence after the other.
        position_ids: [T] positions that start again at 0 with each sequence.
        lengths: [b] tokens of each sequence; they add up to T.
        predicting: [N] place in the row of the state that predicts each completion token: the one before it.
        targets: [N] the completion tokens.
        mask: [b, R] bool, True on completion tokens; True N times, in the order of ``targets``.
        loss_mask: [b, R] bool, the completion tokens that the policy loss counts.
        entropy_mask: [b, R] bool, those whose entropy counts.
        behaviour_logprob: [b, R] the engine's, nat.
        old_logprob: [b, R] the policy's before the update, nat; None where the training forward is the scoring pass.
        reference_logprob: [b, R] the reference's, nat, or None.
        index: [b] place of each sequence in its batch.
    """

    input_ids: Tensor
    position_ids: Tensor
    lengths: tuple[int, ...]
    predicting: Tensor
    targets: Tensor
    mask: Tensor
    loss_mask: Tensor
    entropy_mask: Tensor
    behaviour_logprob: Tensor
    old_logprob: Tensor | None
    reference_logprob: Tensor | None
    index: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device | str, **kwargs: Any) -> Pack:
        """The same pack with its tensors on ``device``."""
        moved: dict[str, Any] = {f.name: v.to(device, **kwargs) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **moved)

    def pad(self, values: Tensor) -> Tensor:
        """[N] values of completion tokens as [b, R], 0 where there is no token. Keeps the gradient."""
        return torch.zeros(self.mask.shape, dtype=values.dtype, device=values.device).masked_scatter(self.mask, values)

    def split(self, values: Tensor) -> list[Tensor]:
        """[N] values of completion tokens, one tensor for each sequence."""
        return list(values.split(self.mask.sum(1).tolist()))


def make_pack(
    samples: Sequence[Sample], index: Sequence[int] | None = None, *, mask_truncated: bool = False, mask_truncated_entropy: bool = False
) -> Pack:
    """The tensors of some samples.

    A pack without samples stands for a rank that has nothing left to compute while others have: two tokens that count nowhere.

    Args:
        samples: of the pack.
        index: their places in the batch; 0, 1, ... if left out.
        mask_truncated: leave truncated completions out of ``loss_mask``.
        mask_truncated_entropy: leave them out of ``entropy_mask``.

    Example (a prompt of 2 and a completion of 1 token, a prompt of 1 and a completion of 2):
        >>> a = Sample("a", "", 0, 0, [5, 6], [7], torch.tensor([-1.0]), "stop")
        >>> b = Sample("b", "", 0, 1, [8], [9, 4], torch.tensor([-2.0, -3.0]), "stop")
        >>> pack = make_pack([a, b])
        >>> pack.input_ids.tolist(), pack.position_ids.tolist()
        ([5, 6, 7, 8, 9, 4], [0, 1, 2, 0, 1, 2])
        >>> pack.predicting.tolist(), pack.targets.tolist()
        ([1, 3, 4], [7, 9, 4])
        >>> pack.behaviour_logprob.tolist()
        [[-1.0, 0.0], [-2.0, -3.0]]
    """
    if not samples:
        empty, nothing = torch.zeros(0, dtype=torch.long), torch.zeros((0, 0))
        none = nothing.bool()
        return Pack(torch.zeros(2, dtype=torch.long), torch.arange(2), (2,), empty, empty, none, none, none, nothing, None, None, empty)
    ids: list[int] = []
    predicting: list[int] = []
    for s in samples:
        start = len(ids) + len(s.prompt_ids)
        predicting += range(start - 1, start - 1 + len(s.token_ids))
        ids += s.prompt_ids + s.token_ids
    width = max(len(s.token_ids) for s in samples)
    mask = torch.arange(width)[None] < torch.tensor([len(s.token_ids) for s in samples])[:, None]
    whole = ~torch.tensor([s.truncated for s in samples])[:, None]

    def column(name: str) -> Tensor | None:
        values = [getattr(s, name) for s in samples]
        if any(v is None for v in values):
            return None
        return torch.zeros(mask.shape).masked_scatter(mask, torch.cat(values).float())

    behaviour = column("behaviour_logprob")
    assert behaviour is not None
    return Pack(
        input_ids=torch.tensor(ids),
        position_ids=torch.cat([torch.arange(len(s)) for s in samples]),
        lengths=tuple(len(s) for s in samples),
        predicting=torch.tensor(predicting, dtype=torch.long),
        targets=torch.tensor([t for s in samples for t in s.token_ids], dtype=torch.long),
        mask=mask,
        loss_mask=mask & whole if mask_truncated else mask,
        entropy_mask=mask & whole if mask_truncated_entropy else mask,
        behaviour_logprob=behaviour,
        old_logprob=column("old_logprob"),
        reference_logprob=column("reference_logprob"),
        index=torch.tensor(list(index) if index is not None else list(range(len(samples)))),
    )

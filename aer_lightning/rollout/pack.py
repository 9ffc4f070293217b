"""One pack as tensors: a row of several sequences, and the per-token values of their completions.

What sequences have in common at their beginning stands in the row once: the prompt of a group, and as much of its completions as is the
same. A token's state depends on the tokens before it alone, so the states are the same, and so is the sum of their gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aer_lightning.rollout.sample import Sample


@dataclass(frozen=True)
class Pack:
    """Sequences computed together: b of S tokens, T of them different, in one row; N completion tokens, at most R in one completion.

    Per-token tensors of the loss are ``[b, R]``, aligned with the completion's first token and padded on the right with 0.

    Attributes:
        input_ids: [T] token ids: of one sequence after the other what it does not share with the one before.
        position_ids: [T] the tokens' positions in their sequences.
        lengths: [b] tokens of each sequence, prompt and completion without its last token, which predicts nothing; they add up to S.
        places: [S] place in the row of every token of every sequence.
        first: [T] where in ``places`` each place of the row is met first.
        predicting: [N] place among the S of the state that predicts each completion token: the one before it.
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
    places: Tensor
    first: Tensor
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

    Example (two completions of the prompt 5 6 that begin with 7; the last tokens predict nothing and are left out):
        >>> a = Sample("a", "", 0, 0, [5, 6], [7, 8, 2], torch.tensor([-1.0, -2.0, -3.0]), "stop")
        >>> b = Sample("a", "", 0, 1, [5, 6], [7, 2], torch.tensor([-1.0, -4.0]), "stop")
        >>> pack = make_pack([a, b])
        >>> pack.index.tolist(), pack.lengths
        ([0, 1], (4, 3))
        >>> pack.input_ids.tolist(), pack.position_ids.tolist()
        ([5, 6, 7, 8], [0, 1, 2, 3])
        >>> pack.places.tolist(), pack.first.tolist()
        ([0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 3])
        >>> pack.predicting.tolist(), pack.targets.tolist()
        ([1, 2, 3, 5, 6], [7, 8, 2, 7, 2])
        >>> pack.behaviour_logprob.tolist()
        [[-1.0, -2.0, -3.0], [-1.0, -4.0, 0.0]]
    """
    if not samples:
        two, empty, nothing = torch.arange(2), torch.zeros(0, dtype=torch.long), torch.zeros((0, 0))
        none = nothing.bool()
        return Pack(torch.zeros_like(two), two, (2,), two, two, empty, empty, none, none, none, nothing, None, None, empty)
    ids, positions, places, first, predicting = _row(samples)
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
        input_ids=ids,
        position_ids=positions,
        lengths=tuple(max(1, len(s) - 1) for s in samples),
        places=places,
        first=first,
        predicting=predicting,
        targets=torch.tensor([t for s in samples for t in s.token_ids], dtype=torch.long),
        mask=mask,
        loss_mask=mask & whole if mask_truncated else mask,
        entropy_mask=mask & whole if mask_truncated_entropy else mask,
        behaviour_logprob=behaviour,
        old_logprob=column("old_logprob"),
        reference_logprob=column("reference_logprob"),
        index=torch.tensor(list(range(len(samples)) if index is None else index)),
    )


def _row(samples: Sequence[Sample]) -> tuple[Tensor, ...]:
    """Token ids, positions, places, first places and predicting places."""
    whole = [(s.prompt_ids + s.token_ids)[: max(1, len(s) - 1)] for s in samples]
    starts = np.cumsum([0, *map(len, whole)])
    arrays = [np.array(ids, dtype=np.int64) for ids in whole]
    owner = np.arange(starts[-1])  # of a token that is shared: where among the S it is computed
    before, last = np.zeros(0, dtype=np.int64), 0
    for i in sorted(range(len(whole)), key=whole.__getitem__):  # neighbours have in common what sequences can have
        common = min(len(before), len(arrays[i]))
        different = np.flatnonzero(before[:common] != arrays[i][:common])
        common = int(different[0]) if different.size else common
        owner[starts[i] : starts[i] + common] = owner[last : last + common]
        before, last = arrays[i], starts[i]
    _, found, places = np.unique(owner, return_index=True, return_inverse=True)
    order = np.argsort(found)  # as the samples come, not as they are sorted
    first, places = found[order], np.argsort(order)[places]
    positions = np.concatenate([np.arange(len(ids)) for ids in whole])
    predicting = [np.arange(len(s.token_ids)) + (start + len(s.prompt_ids) - 1) for s, start in zip(samples, starts, strict=False)]
    row = np.concatenate(arrays)[first], positions[first], places, first, np.concatenate(predicting)
    return tuple(torch.from_numpy(part) for part in row)

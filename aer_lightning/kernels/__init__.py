"""Log-probability and entropy of tokens, forward and backward, without a softmax over the vocabulary in memory.

`logits_token_stats` takes logits, `linear_token_stats` hidden states and the LM head, where the logits never exist as a whole.
`logits_top_logprobs` and `linear_top_logprobs` give the most probable tokens of each row; `plan` says how a call is cut into blocks, and
what that costs. See README.md in this folder.
"""

from aer_lightning.kernels.api import VocabularyShard, linear_token_stats, logits_token_stats
from aer_lightning.kernels.planning import Plan, plan
from aer_lightning.kernels.top import linear_top_logprobs, logits_top_logprobs

__all__ = ["Plan", "VocabularyShard", "linear_token_stats", "linear_top_logprobs", "logits_token_stats", "logits_top_logprobs", "plan"]

"""Log-probability and entropy of tokens, forward and backward, without a softmax over the vocabulary in memory.

Two entry points with the same results: `logits_token_stats` from logits, `linear_token_stats` from hidden states and the LM head, where
the logits never exist as a whole. Backends: `reference` (plain torch, for tests), `chunked` (torch, any device) and `triton` (CUDA);
"auto" takes triton on CUDA and chunked elsewhere.
"""

from aer_lightning.kernels.api import VocabularyShard, linear_token_stats, logits_token_stats

__all__ = ["VocabularyShard", "linear_token_stats", "logits_token_stats"]

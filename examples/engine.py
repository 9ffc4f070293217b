"""An engine of your own: the one with transformers, which keeps count of what it generates."""

from aer_lightning.data.engines import TransformersEngine


class CountingEngine(TransformersEngine):
    tokens = 0

    def generate(self, requests, sampling):
        completions = super().generate(requests, sampling)
        self.tokens += sum(len(c.token_ids) for c in completions)
        return completions

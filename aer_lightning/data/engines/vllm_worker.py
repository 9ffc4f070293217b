"""vLLM itself, in a process of its own (``python -m aer_lightning.data.engines.vllm_worker``).

Apart from the trainer because inside it vLLM would replace ``torch.set_num_threads`` and parts of ``torch.accelerator``, seed every
generator, change the environment, and take the trainer's process group for its own.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from aer_lightning.data.engines.transport import CudaReader, SharedReader
from aer_lightning.data.engines.worker_loop import serve

if TYPE_CHECKING:
    import torch


class VLLMWorker:
    """One ``vllm.LLM`` that starts without weights.

    Args:
        settings: ``llm`` (keyword arguments of ``vllm.LLM``), ``end_token_ids`` (list), ``shared`` (file descriptor and size of the
            memory through which weights come; None where they come by CUDA IPC).
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        from vllm import LLM

        self.end_token_ids: list[int] = settings["end_token_ids"]
        shared = settings["shared"]
        self.reader: SharedReader | CudaReader = SharedReader(*shared) if shared else CudaReader()
        self.awake = {"weights", "kv_cache"}
        self.llm = LLM(**settings["llm"])

        # a million objects of vLLM's modules that no collection needs to look at again
        gc.collect()
        gc.freeze()

    def handle(self, command: str, payload: Any) -> Any:
        """Run one command of :class:`~aer_lightning.data.engines.vllm.VLLMEngine`."""
        return getattr(self, f"do_{command}")(payload)

    def do_load(self, bucket: dict[str, Any]) -> None:
        """Replace some weights, layer by layer: vLLM repacks a layer when its last tensor has come.

        Args:
            bucket: ``weights``: list of (name, handle); ``first``, ``last``: whether it begins, ends a sync.
        """
        self._wake("weights")
        weights = [(name, self.reader.open(handle)) for name, handle in bucket["weights"]]
        self.reader.finish()
        first, last = bucket["first"], bucket["last"]

        def load(model: torch.nn.Module) -> None:
            from vllm.config import set_current_vllm_config
            from vllm.model_executor.model_loader import reload

            engine = self.llm.llm_engine
            with set_current_vllm_config(engine.vllm_config):
                if first:
                    reload.initialize_layerwise_reload(model)
                model.load_weights(iter(weights))  # type: ignore[operator]
                if last:
                    reload.finalize_layerwise_reload(model, engine.model_config)

        self.llm.apply_model(load)
        if last:
            self.llm.reset_prefix_cache()

    def do_checksums(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
        """Checksums of served weights; see :func:`~aer_lightning.data.engines.served.served_checksums`."""
        from aer_lightning.data.engines.served import served_checksums

        self._wake("weights")
        (result,) = self.llm.apply_model(partial(served_checksums, shapes=shapes))
        return result

    def do_generate(self, payload: dict[str, Any]) -> Iterator[list[tuple[int, list[int], list[float], str]]]:
        """Sample one completion per prompt; yield after every step those that it ended.

        Args:
            payload: ``prompts`` (lists of ids), ``seeds``, and ``sampling`` (keyword arguments of ``vllm.SamplingParams``).

        Yields:
            (index of the prompt, token ids, log-probabilities, finish reason) of each.
        """
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        self._wake("weights", "kv_cache")
        common: dict[str, Any] = {"stop_token_ids": self.end_token_ids, "logprobs": 0, "detokenize": False}
        common |= {
            "flat_logprobs": True,  # three lists a completion in place of a dictionary a token
            "skip_clone": True,  # each request has its own already, and a deep copy takes a third of a small model's time
        }
        ids = self.llm.enqueue(
            [TokensPrompt(prompt_token_ids=ids) for ids in payload["prompts"]],
            [SamplingParams(seed=seed, **common, **payload["sampling"]) for seed in payload["seeds"]],
            use_tqdm=False,
        )
        # the ids that come back are the external ones; those of the engine have random characters behind a dash
        index = {name.partition("-")[0]: place for place, name in enumerate(ids)}
        engine = self.llm.llm_engine
        try:
            while engine.has_unfinished_requests():
                ended: list[Any] = [output for output in engine.step() if output.finished]
                if ended:
                    yield [(index[output.request_id], *_completion(output.outputs[0])) for output in ended]
        finally:
            if engine.has_unfinished_requests():
                engine.abort_request(ids, internal=True)

    def do_wake(self, _: None) -> None:
        """Take all memory back."""
        self._wake("weights", "kv_cache")

    def do_sleep(self, _: None) -> None:
        """Give the GPU's memory back, weights and cache: level 2, because the next sync replaces every weight."""
        if self.awake:
            self.llm.sleep(level=2)
            self.awake.clear()

    def _wake(self, *tags: str) -> None:
        missing = [tag for tag in tags if tag not in self.awake]
        if missing:
            self.llm.wake_up(tags=missing)
            self.awake.update(missing)


def _completion(output: Any) -> tuple[list[int], list[float], str]:
    """(token ids, log-probabilities, finish reason) of a finished output; its flat log-probabilities are those of the sampled tokens."""
    ids = list(output.token_ids)
    if list(output.logprobs.token_ids) != ids:
        raise RuntimeError("vLLM returned log-probabilities of other tokens than the sampled ones")
    return ids, list(output.logprobs.logprobs), str(output.finish_reason)


if __name__ == "__main__":
    serve(VLLMWorker)

"""vLLM itself, in a process of its own (``python -m aer_lightning.data.engines.vllm_worker``).

Apart from the trainer because inside it vLLM would replace ``torch.set_num_threads`` and parts of ``torch.accelerator``, seed every
generator, change the environment, and take the trainer's process group for its own.
"""

from __future__ import annotations

import gc
from typing import Any

from aer_lightning.data.engines.worker_loop import serve


class VLLMWorker:
    """One ``vllm.LLM`` that starts without weights.

    Args:
        settings: ``llm`` (keyword arguments of ``vllm.LLM``), ``end_token_ids`` (list), ``sleep_mode`` (bool).
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        from vllm import LLM

        self.end_token_ids: list[int] = settings["end_token_ids"]
        self.awake = {"weights", "kv_cache"}
        self.llm = LLM(**settings["llm"])
        # it started with dummy weights; the real ones come from files of this format
        self.llm.collective_rpc("update_config", args=({"load_config": {"load_format": "safetensors"}},))

        # a million objects of vLLM's modules that no collection needs to look at again
        gc.collect()
        gc.freeze()

    def handle(self, command: str, payload: Any) -> Any:
        """Run one command of :class:`~aer_lightning.data.engines.vllm.VLLMEngine`."""
        return getattr(self, f"do_{command}")(payload)

    def do_load_files(self, folder: str) -> None:
        """Replace all weights by those of the safetensors files in ``folder``."""
        self._wake("weights")
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        self.llm.reset_prefix_cache()

    def do_load_cuda(self, bucket: dict[str, Any]) -> None:
        """Replace some weights by tensors in the trainer's memory of the same GPU.

        Args:
            bucket: ``weights``: list of (name, arguments of ``rebuild_cuda_tensor``); ``first``, ``last``: whether it begins, ends a sync.
        """
        import torch
        from torch.multiprocessing.reductions import rebuild_cuda_tensor

        self._wake("weights")
        device = torch.cuda.current_device()
        # argument 6 is the trainer's index of the device, which is not ours where CUDA_VISIBLE_DEVICES differs.
        # A copy, because vLLM may keep a weight until its layer is complete and the trainer reuses the memory before that.
        weights = [(name, rebuild_cuda_tensor(*(*args[:6], device, *args[7:])).clone()) for name, args in bucket["weights"]]
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
        torch.cuda.synchronize()
        if last:
            self.llm.reset_prefix_cache()

    def do_generate(self, payload: dict[str, Any]) -> list[tuple[list[int], list[float], str]]:
        """Sample one completion per prompt.

        Args:
            payload: ``prompts`` (lists of ids), ``seeds``, and ``sampling`` (keyword arguments of ``vllm.SamplingParams``).

        Returns:
            (token ids, log-probabilities, finish reason) per prompt, in order.
        """
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        self._wake("weights", "kv_cache")
        common = {**payload["sampling"], "stop_token_ids": self.end_token_ids, "logprobs": 0, "detokenize": False}
        outputs = self.llm.generate(
            [TokensPrompt(prompt_token_ids=ids) for ids in payload["prompts"]],
            [SamplingParams(seed=seed, **common) for seed in payload["seeds"]],
            use_tqdm=False,
        )
        result = []
        for output in outputs:
            completion = output.outputs[0]
            ids = list(completion.token_ids)
            steps: Any = completion.logprobs
            logprobs = [float(step[token].logprob) for token, step in zip(ids, steps, strict=True)]
            result.append((ids, logprobs, str(completion.finish_reason)))
        return result

    def do_sleep(self, _: None) -> None:
        """Give the GPU's memory back; the weights wait in host memory."""
        if self.awake:
            self.llm.sleep(level=1)
            self.awake.clear()

    def _wake(self, *tags: str) -> None:
        missing = [tag for tag in tags if tag not in self.awake]
        if missing:
            self.llm.wake_up(tags=missing)
            self.awake.update(missing)


if __name__ == "__main__":
    serve(VLLMWorker)

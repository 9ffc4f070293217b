"""The policy: one Lightning batch in is one optimizer step out; Lightning clips, steps, schedules and saves.

Reads as the algorithm: for each pack of sequences score the completions, take the objective's policy loss, minus lambda(q) times
entropy, plus beta times the KL to the reference, and run backward. What it leaves to others: where completions and advantages come
from (data), and who decides lambda (callbacks).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from aer_lightning.algorithms.objectives import (
    ClipObjective,
    ImportanceWeights,
    Metrics,
    Objective,
    merge_metrics,
)
from aer_lightning.assets import resolve_model
from aer_lightning.errors import ConfigError
from aer_lightning.modules.adapters import Lora, check_same, description, without_adapters
from aer_lightning.modules.evaluation import EvaluationSteps
from aer_lightning.modules.gradients import clip, gradient_norm, loss_scale
from aer_lightning.modules.loading import DTYPES, NetworkOptions, Sharding, check_model_folder, load_network, local_folder
from aer_lightning.modules.loss import StepLoss
from aer_lightning.modules.memory import (
    Allocator,
    CudaAllocator,
    MemorySchedule,
    NoAllocator,
    Offload,
    check_offload,
    optimizer_tensors,
)
from aer_lightning.modules.network import Backend, PolicyNetwork
from aer_lightning.modules.optimizer_options import check_optimizer
from aer_lightning.modules.record import StepRecord
from aer_lightning.modules.sharding import check_strategy, decoder_layers, full_state, sharding_mesh
from aer_lightning.parts import check_part
from aer_lightning.rollout import Pack, RolloutBatch, measure

# Options that ``load_from_checkpoint`` knows from the checkpoint; the others are no plain values, and train a model but are none of it.
PLAIN = ("pretrained", "reference", "dtype", "attn_implementation", "trust_remote_code", "kernel_backend", "memory_mb")


class PolicyModule(EvaluationSteps):
    """A causal LM trained by policy gradient on verifiable rewards.

    ``PolicyModule.load_from_checkpoint(path)`` gives the model of a checkpoint; hand objective and optimizer in again to train it further.

    Args:
        pretrained: local Hugging Face folder, hub name, or ``countdown-tiny`` for the model that comes with the package.
        objective: the policy loss; ``ClipObjective`` (symmetric clip 0.2, token mean) if left out.
        importance: correction for the difference between the engine's and the trainer's probabilities; null for none.
        kl_weight: beta, weight of the KL divergence to the reference; 0 leaves the reference unloaded.
        kl_estimator: k1, k2 or k3.
        kl_in: ``loss`` adds beta KL to the loss, ``reward`` subtracts beta times the sequence's summed k1 from its reward.
        reference: folder or name of the reference; ``pretrained`` if left out.
        optimizer: builds the optimizer from the parameters.
        lr_scheduler: builds a scheduler, stepped once per optimizer step.
        lora: train low-rank adapters on a frozen base instead of the weights; see ``Lora``. The reference is then the base itself.
        dtype: dtype of the trained weights; keep float32 and let ``trainer.precision: bf16-mixed`` choose that of the products.
        attn_implementation: an attention of transformers, such as ``flash_attention_2``, in place of this package's packed one.
        trust_remote_code: run code that comes with the model.
        gradient_checkpointing: recompute each block in the backward pass.
        compile_layers: compile each decoder layer with ``torch.compile``.
        reduce_gradients: when FSDP2 reduces gradients over ranks: after ``each_pack``, or after the ``last_pack`` of a step, which saves
            a reduction per pack and keeps a whole fp32 gradient on every rank (4 bytes a parameter).
        offload: what waits in host memory while an engine on the same accelerator generates: ``none``, ``optimizer`` (its states) or
            ``all`` (the weights too). Changes no result; without an accelerator there is nothing to do.
        kernel_backend: ``auto``, ``triton``, ``torch`` or ``reference``.
        memory_mb: MiB that the kernels may hold beside inputs, results and gradients; ``auto`` goes by the device's free memory.
        workspace_mb: the former name of ``memory_mb``; refused.

    Raises:
        ConfigError: an option is out of range.
        DataError: ``pretrained`` is not a model folder.
    """

    def __init__(
        self,
        pretrained: str = "countdown-tiny",
        objective: Objective | None = None,
        importance: ImportanceWeights | None = ImportanceWeights(),  # noqa: B008 (frozen)
        kl_weight: float = 0.0,
        kl_estimator: Literal["k1", "k2", "k3"] = "k3",
        kl_in: Literal["loss", "reward"] = "loss",
        reference: str | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=5e-5, weight_decay=0.0),
        lr_scheduler: LRSchedulerCallable | None = None,
        lora: Lora | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        gradient_checkpointing: bool = False,
        compile_layers: bool = False,
        reduce_gradients: Literal["each_pack", "last_pack"] = "each_pack",
        offload: Offload = "none",
        kernel_backend: Backend = "auto",
        memory_mb: float | Literal["auto"] = "auto",
        workspace_mb: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(lora, Mapping):  # from a checkpoint, whose hyper-parameters are plain values
            lora = Lora(**lora)
        self.save_hyperparameters(*PLAIN, logger=False)
        self.hparams["lora"] = None if lora is None else asdict(lora)
        if kl_weight < 0:
            raise ConfigError(f"model.init_args.kl_weight: {kl_weight} is negative; give 0 (no reference) or a positive weight")
        if kl_weight and kl_in == "loss" and kl_estimator == "k1":
            raise ConfigError("model.init_args.kl_estimator: k1 in the loss has no expected gradient; use k2 or k3, or kl_in: reward")
        if workspace_mb is not None:
            raise ConfigError("model.init_args.workspace_mb: memory_mb took its place (auto, or MiB as a hard bound); rename it")
        if memory_mb != "auto" and memory_mb < 1:
            raise ConfigError(f"model.init_args.memory_mb: {memory_mb} MiB is too small; give at least 1, or auto")
        self.pretrained = str(resolve_model(pretrained))
        self.reference = str(resolve_model(reference)) if reference else self.pretrained
        check_model_folder(self.pretrained)
        check_model_folder(self.reference, "model.init_args.reference")
        self.objective: Objective = objective if objective is not None else ClipObjective()
        check_part(self.objective, Objective, "model.init_args.objective")
        self.kl_weight, self.kl_in = kl_weight, kl_in
        self.loss = StepLoss(self.objective, importance, kl_weight if kl_in == "loss" else 0.0, kl_estimator)
        check_optimizer(optimizer)
        self.make_optimizer, self.make_scheduler = optimizer, lr_scheduler
        self.dtype_name = (lora.base_dtype if lora is not None else None) or dtype
        self.trust_remote_code, self.lora = trust_remote_code, lora
        self.options = NetworkOptions(dtype, attn_implementation, trust_remote_code, kernel_backend, memory_mb)
        self.gradient_checkpointing, self.compile_layers, self.reduce_gradients = gradient_checkpointing, compile_layers, reduce_gradients
        check_offload(offload)
        self.offload: Offload = offload
        self.weight_version = 0
        self.policy: PolicyNetwork | None = None
        # In a list, so that the reference is neither a parameter nor part of any checkpoint or sharding.
        self._reference: list[PolicyNetwork] = []
        self._record = StepRecord()
        self._norm: Tensor | None = None
        self._memory: MemorySchedule | None = None

    # -- set-up ---------------------------------------------------------------------------------------------------------------

    @property
    def needs_reference(self) -> bool:
        """Whether anything asks for the reference's log-probabilities."""
        return self.kl_weight != 0

    @property
    def needs_scoring(self) -> bool:
        """Whether a scoring pass has to come before the training forward: for statistics of a step, for rewards, or without dropout."""
        dropout = self.lora is not None and self.lora.dropout > 0
        return dropout or hasattr(self.objective, "statistics") or bool(self.kl_weight and self.kl_in == "reward")

    @property
    def reference_is_base(self) -> bool:
        """Whether the reference is the policy without its adapters, so that no second copy is needed."""
        return self.lora is not None and self.reference == self.pretrained

    @property
    def padded(self) -> bool:
        """Whether the model is computed in padded rectangles; see ``PolicyNetwork``."""
        return self.policy is not None and self.policy.padded

    def model_folder(self) -> Path:
        """Local folder of ``pretrained``; a hub name is downloaded on first use."""
        return local_folder(self.pretrained)

    def prepare_data(self) -> None:
        """Download what is not here, once per machine."""
        self.model_folder()
        if self.needs_reference:
            local_folder(self.reference, "model.init_args.reference")

    def setup(self, stage: str) -> None:
        """Refuse strategies and precisions that would train something else, before anything is loaded."""
        check_strategy(self.trainer)

    def configure_model(self) -> None:
        """Load the policy (and the reference if it is needed) and shard both where the strategy asks for it."""
        if self.policy is not None:
            return
        sharding = self._sharding()
        self.policy = load_network(
            str(self.model_folder()), self.options, self.lora, seed=torch.initial_seed(), sharding=sharding, prepare=self._prepare
        ).train()
        if self.policy.notice is not None:
            rank_zero_info(f"model.init_args.pretrained: {self.policy.notice}")
        if self.needs_reference and not self.reference_is_base and self._trainer is not None and self.trainer.training:
            folder = local_folder(self.reference, "model.init_args.reference")
            self._reference.append(load_network(str(folder), self.options, sharding=sharding).requires_grad_(False).eval())

    def _sharding(self) -> Sharding | None:
        if self.device_mesh is None:
            return None
        param_dtype = DTYPES["bfloat16"] if "bf16" in str(self.trainer.precision) else None
        return Sharding(sharding_mesh(self.device_mesh), self.trainer.strategy.root_device, param_dtype)

    def _prepare(self, network: PolicyNetwork) -> None:
        if self.gradient_checkpointing:
            network.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if self.compile_layers:
            for layer in decoder_layers(network.model):
                layer.compile()

    def configure_optimizers(self) -> Any:
        """The optimizer, and the scheduler if one is configured, stepped once per optimizer step."""
        optimizer = self.make_optimizer([p for p in self.parameters() if p.requires_grad])
        if self.make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.make_scheduler(optimizer), "interval": "step"}}

    def on_fit_start(self) -> None:
        """Bring the reference to the policy's device; nothing else moves it."""
        for network in self._reference:
            network.to(self.device)
        if self.offload != "none" and not self.memory.allocator.shared:
            rank_zero_info(f"model.init_args.offload: {self.offload} does nothing on a {self.device.type}; there is no memory to share")

    @property
    def memory(self) -> MemorySchedule:
        """Who holds the device's memory when; the data tells it when the engine's turn begins and ends."""
        if self._memory is None:
            allocator: Allocator = CudaAllocator() if self.device.type == "cuda" else NoAllocator()
            self._memory = MemorySchedule(
                self.offload,
                allocator,
                weights=lambda: [*self.parameters(), *(p for network in self._reference for p in network.parameters())],
                optimizer_states=lambda: optimizer_tensors(self.trainer.optimizers, self.device.type),
                free_gradients=lambda: self.zero_grad(set_to_none=True),
            )
        return self._memory

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The weights, wherever they are: a checkpoint may fall into the engine's turn."""
        if self._memory is not None:
            self._memory.take_back()
        return super().state_dict(*args, **kwargs)

    # -- scoring, for the data ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def score(self, pack: Pack, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy of a pack's completion tokens under the current policy, [N] fp32 each, without gradient."""
        assert self.policy is not None, "the policy is loaded by configure_model"
        with self._evaluating(self.policy):
            logprob, entropy = self.policy.score(pack.to(self.device), temperature)
            return logprob, entropy

    @torch.no_grad()
    def score_reference(self, pack: Pack, temperature: float) -> Tensor:
        """Log-probability of a pack's completion tokens under the reference, [N] fp32."""
        network = self.policy if self.reference_is_base else self._reference[0]
        assert network is not None
        with self._evaluating(network), without_adapters(network):
            return network.score(pack.to(self.device), temperature)[0]

    @contextmanager
    def _evaluating(self, network: PolicyNetwork) -> Iterator[None]:
        """The precision of a training step, and gradient checkpointing out of the way."""
        training = network.training
        network.eval()
        try:
            with self.trainer.precision_plugin.forward_context():
                yield
        finally:
            network.train(training)

    def full_weights(self) -> Iterator[tuple[str, Tensor]]:
        """(name, full tensor) of the Hugging Face model; collective under sharding."""
        assert self.policy is not None, "the policy is loaded by configure_model"
        return full_state(self.policy)

    # -- training ---------------------------------------------------------------------------------------------------------------

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> Tensor:
        """One optimizer step: policy loss - (1 / N_tok) sum lambda(q) H + beta KL, all over the step's global counts.

        Runs forward and backward of every pack but the last one's backward, which is left to Lightning with everything that follows
        it: clipping, scaling, the step, hooks. The value returned is the whole step's, its gradient the last pack's. It is scaled so
        that the strategy's mean over ranks gives the plain sum.
        """
        self.optimizers(use_pl_optimizer=False).zero_grad()  # type: ignore[union-attr]
        scored = batch.scored
        for sample, coefficient in zip(batch.samples, batch.entropy_coefficient.tolist(), strict=True):
            sample.coefficient = coefficient
        totals: list[Tensor] = []
        metrics: Metrics = {}
        for place, pack in enumerate(batch.tensors()):
            last = place == len(batch.packs) - 1
            self._reduce_with(last)
            total, pack_metrics, measured = self.loss(self.policy, batch, pack, self.trainer.world_size)  # type: ignore[arg-type]
            metrics = merge_metrics(metrics, pack_metrics)
            totals.append(total.detach())
            if not scored:
                self._keep(batch, pack, *measured)
            if not last:
                with torch.autocast(self.device.type, enabled=False):
                    self.trainer.strategy.backward(total * self.trainer.world_size, None)
        self.policy.release()  # type: ignore[union-attr]
        if not scored:
            measure(batch.info, batch.samples, self.device, mask_truncated_entropy=batch.mask_truncated_entropy)
        self._record.add(batch, metrics, totals)
        return (total + sum(totals[:-1])) * self.trainer.world_size

    def _keep(self, batch: RolloutBatch, pack: Pack, logprob: Tensor, entropy: Tensor) -> None:
        """The training forward of an on-policy step is the scoring pass: write what it measured to the samples."""
        parts = zip(pack.index.tolist(), pack.split(logprob.cpu()), pack.split(entropy.cpu()), strict=True)
        for place, before, nats in parts:
            batch.samples[place].old_logprob, batch.samples[place].entropy = before.clone(), nats.clone()

    def _reduce_with(self, last: bool) -> None:
        if self.reduce_gradients == "last_pack" and hasattr(self.policy, "set_requires_gradient_sync"):
            self.policy.set_requires_gradient_sync(last)  # type: ignore[union-attr, operator]

    def optimizer_zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: Lightning calls it before the last pack's backward, when the gradients of the others are there already."""

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop before a non-finite update, on every rank at once, and log the gradient norm."""
        self._norm = gradient_norm(self.parameters())
        scales = getattr(self.trainer.precision_plugin, "scaler", None) is not None  # fp16 scaling skips such steps by itself
        norm = float(self._norm) / loss_scale(self.trainer.precision_plugin, optimizer)
        self._record.check(scales or norm < float("inf"), self.device)
        self._record.add_gradient_norm(norm, self.trainer.world_size)
        if self._record.finished is not None:
            values = self._record.values(self._record.finished, self.trainer.world_size)
            self.log_dict(values, on_step=True, on_epoch=False, batch_size=1)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip as ``trainer.gradient_clip_val`` says, with the norm that is there already; fused optimizers may be clipped too."""
        if gradient_clip_val:
            assert self._norm is not None
            scale = loss_scale(self.trainer.precision_plugin, optimizer)
            clip(self.parameters(), self._norm, float(gradient_clip_val), gradient_clip_algorithm, scale)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and count the new version of the weights."""
        super().optimizer_step(*args, **kwargs)
        self.weight_version += 1

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the version count and the sums of an unfinished rollout, so that a resumed run logs what an uninterrupted one does."""
        checkpoint["weight_version"] = self.weight_version
        checkpoint["lora"] = description(self.lora)
        checkpoint["metric_sums"] = self._record.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back; adapters of another kind are refused."""
        check_same(checkpoint.get("lora"), self.lora)
        self.weight_version = checkpoint.get("weight_version", 0)
        if self._trainer is not None:
            self._record.load(checkpoint.get("metric_sums", []), self.trainer.global_rank, self.trainer.world_size)

import lightning.pytorch as pl
import pytest
import torch

from aer_lightning.algorithms.objectives import ClipObjective, EntropyScope, ImportanceWeights
from aer_lightning.callbacks import FixedCoefficient
from aer_lightning.errors import ConfigError


def first_gradient(runs, **module_options):
    class Keep(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            batch.advantage = torch.sin(batch.sequence_index.float())

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.grad = torch.cat([p.grad.flatten() for p in pl_module.parameters()]).clone()

    keep = Keep()
    runs.fit([FixedCoefficient(0.1), keep], data=runs.data(rollouts_per_epoch=1), module=runs.module(**module_options))
    return keep.grad


def test_reference_is_loaded_only_if_asked_and_never_saved_or_trained(runs, random_llama, tmp_path):
    _, without, _ = runs.fit(data=runs.data(rollouts_per_epoch=1))
    assert without._reference == []
    trainer, module, _ = runs.fit([FixedCoefficient(0.5)], data=runs.data(rollouts_per_epoch=1), module=runs.module(kl_weight=0.1))
    (reference,) = module._reference
    assert not any(p.requires_grad for p in reference.parameters())
    trainable = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert not trainable & {id(p) for p in reference.parameters()}
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    state = torch.load(tmp_path / "c.ckpt", weights_only=True)["state_dict"]
    assert len(state) == len(list(module.policy.state_dict()))
    before = dict(reference.model.state_dict())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in module.full_weights()), "the policy moved, the reference did not"


def test_kl_to_the_reference_enters_the_loss_or_the_reward(runs, recorder, tmp_path):
    from tests.conftest import build_model

    other = str(build_model("qwen3", tmp_path / "other", seed=7))
    options = {"kl_weight": 0.5, "reference": other}
    runs.fit([recorder], data=runs.data(rollouts_per_epoch=1), module=runs.module(**options))
    metrics = recorder.rollouts[0]
    assert metrics["train/reference_kl"] > 0.01
    assert metrics["train/loss"] == pytest.approx(metrics["train/policy_loss"] + 0.5 * metrics["train/reference_kl"], abs=1e-5)

    recorder.batches.clear()
    _, _, data = runs.fit([recorder], data=runs.data(rollouts_per_epoch=1), module=runs.module(**options, kl_in="reward"))
    for s in data.last_samples:
        k1 = float((s.old_logprob - s.reference_logprob).sum())
        assert s.reward == pytest.approx(float(s.correct) - 0.5 * k1, abs=1e-4)
    assert any(b.advantage.abs().max() > 0 for b in recorder.batches), "an unsolved group gets an advantage from the KL"


@pytest.mark.parametrize(
    "options", [{"kl_weight": -1.0}, {"kl_weight": 0.1, "kl_estimator": "k1"}, {"memory_mb": 0}, {"workspace_mb": 256}]
)
def test_impossible_options(runs, options):
    with pytest.raises(ConfigError, match=r"^model\.init_args\."):
        runs.module(**options)


def test_gradient_checkpointing_and_backends_change_no_gradient(runs):
    plain = first_gradient(runs)
    assert plain.norm() > 1e-3
    assert torch.allclose(first_gradient(runs, gradient_checkpointing=True), plain, atol=1e-6)
    assert torch.allclose(first_gradient(runs, kernel_backend="reference"), plain, atol=1e-6)


def test_objective_and_importance_are_options(runs, recorder):
    runs.fit([recorder], data=runs.data(rollouts_per_epoch=1), module=runs.module(importance=None))
    assert "train/importance_ess" not in recorder.rollouts[0]
    runs.fit([recorder], data=runs.data(rollouts_per_epoch=1), module=runs.module(importance=ImportanceWeights(level="sequence")))
    assert recorder.rollouts[1]["train/importance_ess"] == pytest.approx(1.0, abs=1e-4)
    a = first_gradient(runs, objective=ClipObjective(aggregation="token_mean"))
    b = first_gradient(runs, objective=ClipObjective(aggregation="sequence_mean_token_mean"))
    assert not torch.allclose(a, b, atol=1e-5)


def test_an_objective_sees_each_tokens_entropy(runs, recorder):
    module = runs.module(objective=ClipObjective(entropy_quantile=0.5))
    runs.fit([recorder], data=runs.data(rollouts_per_epoch=1), module=module)
    lengths = recorder.batches[0].response_lengths.tolist()
    kept = sum(n - 1 - int(0.5 * (n - 1)) for n in lengths)
    assert recorder.rollouts[0]["train/entropy_selected"] == pytest.approx(kept / sum(lengths), abs=1e-6)


def test_scheduler_steps_once_per_optimizer_step(runs):
    def decay(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)

    data = runs.data(rollouts_per_epoch=2, optimizer_steps_per_rollout=2, tokens_per_micro_batch=32)
    trainer, module, _ = runs.fit(data=data, module=runs.module(lr_scheduler=decay))
    assert trainer.global_step == module.weight_version == 4
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3 * 0.5**4)


def test_loss_of_a_rollout_is_the_sum_over_packs(runs, recorder):
    for tokens in (512, 64):
        runs.fit([FixedCoefficient(0.3), recorder], data=runs.data(tokens_per_micro_batch=tokens, rollouts_per_epoch=1))
    one, many = recorder.rollouts
    assert one["rollout/packs"] == 1 and many["rollout/packs"] > 4
    assert one["train/entropy_bonus"] > 0.05
    for name in ("train/loss", "train/entropy_bonus", "train/grad_norm", "train/ratio"):
        assert many[name] == pytest.approx(one[name], abs=1e-5)


class Scope(pl.Callback):
    """Asks for a part of the entropy, as a coefficient's callback does."""

    def __init__(self, **options):
        self.scope, self.batches = EntropyScope(**options), []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        batch.scalars |= self.scope.scalars()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append(batch)


@pytest.mark.parametrize("options", [{"quantile": 0.5}, {"top_p": 0.7}, {"top_share": 0.5, "quantile": 0.25}])
def test_the_bonus_reads_the_part_of_the_entropy_that_was_asked_for(runs, recorder, options):
    """bonus = alpha x (sum over the masked tokens) / N, so alpha x mean x share; in packs of any size; H_k stays the whole one."""
    for tokens in (512, 64):
        scope = Scope(**options)
        runs.fit([FixedCoefficient(0.3), scope, recorder], data=runs.data(tokens_per_micro_batch=tokens, rollouts_per_epoch=1))
    runs.fit([FixedCoefficient(0.3), recorder], data=runs.data(rollouts_per_epoch=1))
    one, many, plain = recorder.rollouts
    assert one["rollout/entropy"] == pytest.approx(plain["rollout/entropy"], abs=1e-6)
    for name in ("train/entropy_bonus", "train/loss", "train/grad_norm", "rollout/regularised_entropy"):
        assert many[name] == pytest.approx(one[name], abs=1e-5), name
    assert "rollout/regularised_entropy" not in plain and one["train/entropy_bonus"] < plain["train/entropy_bonus"] - 1e-3
    (batch,) = scope.batches
    quantile = options.get("quantile")
    kept = sum(n if quantile is None else n - 1 - int(quantile * (n - 1)) for n in batch.response_lengths.tolist())
    share = kept / batch.response_lengths.sum().item()
    assert one["train/entropy_bonus"] == pytest.approx(0.3 * one["rollout/regularised_entropy"] * share, rel=1e-4)
    if options == {"quantile": 0.5}:
        peaks = [e[e > e.quantile(0.5)] for e in (s.entropy for s in batch.samples)]
        assert one["rollout/regularised_entropy"] == pytest.approx(torch.cat(peaks).mean().item(), rel=1e-5)


def test_bf16_mixed_precision_trains(runs, recorder):
    _, module, _ = runs.fit([FixedCoefficient(0.3), recorder], data=runs.data(max_mismatch=1.0), precision="bf16-mixed")
    assert all(p.dtype == torch.float32 for p in module.parameters())
    assert all(torch.isfinite(torch.tensor(list(r.values()))).all() for r in recorder.rollouts)


@pytest.mark.parametrize("kind", ["random_llama"])
def test_tied_embeddings_train_and_stay_in_step_with_the_engine(request, runs, recorder, kind):
    runs.model = request.getfixturevalue(kind)
    _, module, _ = runs.fit([FixedCoefficient(0.5), recorder], data=runs.data(rollouts_per_epoch=3))
    assert all(r["rollout/mismatch_logprob"] < 1e-5 for r in recorder.rollouts)
    model = module.policy.model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_dtype_and_attention_are_options(runs):
    module = runs.module(dtype="bfloat16", attn_implementation="eager")
    module.configure_model()
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert module.policy.model.config._attn_implementation == "eager"
    plain = runs.module()
    plain.configure_model()
    assert {p.dtype for p in plain.parameters()} == {torch.float32}
    assert plain.policy.model.config._attn_implementation != "eager"

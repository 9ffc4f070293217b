"""Every baseline and ablation by the command line, on the shipped model for two rollouts: each changes what it should and nothing else."""

from __future__ import annotations

import functools
import math
from itertools import groupby
from pathlib import Path

import pytest
import torch
import yaml

from aer_lightning.algorithms import ClipHighRule, PositiveWeightRule, SureWeightRule, ZetaRule
from aer_lightning.algorithms.objectives import ClipCovObjective, ClipObjective, KLCovObjective
from aer_lightning.callbacks.stack import EntropyCallback
from aer_lightning.modules.policy import PolicyModule

THREE = "--data.init_args.rollouts_per_epoch=3"
BASELINES = ["grpo", "dapo", "fixed_entropy", "skywork", "clip_cov", "kl_cov", "aent"]
RIVALS = ["repo_r", "adapo", "stare", "entropic", "pos_adv", "on_policy", "siren"]
ABLATIONS = ["no_difficulty", "no_anchor", "no_controller"]
STACKS = {
    "aer": ["EntropyAnchor", "GlobalCoefficient", "DifficultyCoefficient"],
    "skywork": ["SkyworkCoefficient"],
    "aent": ["AEntCoefficient"],
    "repo_r": ["EntropyAnchor", "REPORScale"],
    "siren": ["EntropyAnchor", "SIRENCoefficient"],
    "adapo": ["EntropyAnchor", "ADAPOClip"],
    "stare": ["EntropyAnchor", "STAREGate"],
    "entropic": ["EntropyAnchor", "EntroPICWeight"],
    "pos_adv": ["EntropyAnchor", "PositiveAdvantageWeight"],
    "no_difficulty": ["EntropyAnchor", "GlobalCoefficient"],
    "no_anchor": ["EntropyAnchor", "GlobalCoefficient", "DifficultyCoefficient"],
    "no_controller": ["FixedCoefficient", "DifficultyCoefficient"],
}


def files(name):
    overlay = {"aer": []}.get(name, ["-c", f"configs/{'ablation/' if name in ABLATIONS else ''}{name}.yaml"])
    return ["-c", "configs/aer.yaml", *overlay]


class Finished:
    """A run that trained: its objects, its micro-batches by rollout, its rows of metrics."""

    def __init__(self, line, batches, rows):
        self.model, self.data, self.trainer = line.model, line.datamodule, line.trainer
        self.rows = rows
        self.rollouts = [list(group) for _, group in groupby(batches, key=lambda b: b.info.index)]
        self.stack = [c for c in line.trainer.callbacks if isinstance(c, EntropyCallback)]

    def column(self, name):
        return [row[name] for row in self.rows]


@pytest.fixture
def fit(cli, small, tmp_path, monkeypatch, read_metrics):
    """Trains two rollouts of 6 prompts x 4 responses under an overlay."""
    from aer_lightning.cli import build

    original = PolicyModule.training_step

    def run(name, *options, configs=None):
        batches = []

        @functools.wraps(original)
        def record(self, batch, batch_idx):
            batches.append(batch)
            return original(self, batch, batch_idx)

        monkeypatch.setattr(PolicyModule, "training_step", record)
        folder = tmp_path / f"{name}{len(list(tmp_path.iterdir()))}"
        quiet = ["--curves.enabled=false", "--export.enabled=false", "--data.init_args.evaluation=[]"]
        sizes = ["--data.init_args.prompts_per_rollout=6", "--data.init_args.max_new_tokens=12"]
        steps = ["--data.init_args.optimizer_steps_per_rollout=2"]
        line = build(["fit", *(configs or files(name)), *small("countdown-tiny", folder), *quiet, *sizes, *steps, *options])
        saved = yaml.safe_load((folder / "config.yaml").read_text())
        assert saved["name"] == name
        return Finished(line, batches, read_metrics(folder))

    return run


def coefficients(batches):
    return torch.cat([b.entropy_coefficient for b in batches])


def accuracies(batches):
    return torch.cat([b.group_accuracy for b in batches])


def assert_group_advantages(batches):
    """(r - mean) / (std + eps) in each group, from the rewards in the batches."""
    reward, advantage, place = (torch.cat([getattr(b, n) for b in batches]) for n in ("reward", "advantage", "sequence_index"))
    order = place.argsort()
    groups = reward[order].double().view(-1, 4)
    expected = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-6)
    assert torch.allclose(advantage[order].double().view(-1, 4), expected, atol=1e-5) and expected.abs().max() > 0.5


def test_grpo_has_no_entropy_term_and_a_symmetric_clip(fit):
    run = fit("grpo")
    assert run.model.objective == ClipObjective(clip_low=0.2, clip_high=0.2)
    assert run.column("train/entropy_bonus") == [0.0, 0.0] and run.column("aer/alpha") == [0.0, 0.0]
    for batches in run.rollouts:
        assert (coefficients(batches) == 0).all()
        assert_group_advantages(batches)


def test_fixed_entropy_gives_every_token_the_same(fit):
    run = fit("fixed_entropy")
    assert run.model.objective == ClipObjective() and run.column("aer/alpha") == pytest.approx([0.01, 0.01])
    assert all(torch.allclose(coefficients(b), torch.tensor(0.01)) for b in run.rollouts)
    for row in run.rows:
        assert row["train/entropy_bonus"] == pytest.approx(0.01 * row["rollout/entropy"], rel=0.2)


def test_dapo_resamples_penalises_and_clips_higher(fit):
    limit, buffer = 9, 6
    run = fit("dapo", f"--data.init_args.overlong.buffer={buffer}", f"--data.init_args.max_new_tokens={limit}")
    assert run.model.objective == ClipObjective(clip_low=0.2, clip_high=0.28, aggregation="token_mean")
    assert run.column("train/entropy_bonus") == [0.0, 0.0]
    penalised = truncated = 0
    for row, batches in zip(run.rows, run.rollouts, strict=True):
        g = accuracies(batches)
        assert int(((g == 0) | (g == 1)).sum()) == 4 * row["rollout/filled_groups"], "only what was filled up is not mixed"
        assert 1 <= row["rollout/sampling_tries"] <= 4
        assert_group_advantages(batches)
        for batch in batches:
            length = batch.response_lengths
            penalty = ((length - limit + buffer) / buffer).clamp(0, 1)
            correct = (batch.reward + penalty).round()
            assert torch.allclose(batch.reward, correct - penalty, atol=1e-5) and set(correct.tolist()) <= {0.0, 1.0}
            for pack in batch.tensors():
                assert (pack.loss_mask == pack.mask).all(), "who is penalised for its length is trained on it"
            penalised, truncated = penalised + int((penalty > 0).sum()), truncated + sum(s.truncated for s in batch.samples)
    assert sum(run.column("rollout/sampling_tries")) > 2, "the shipped model solves some problems every time"
    assert penalised > truncated > 0


def test_skywork_steps_towards_its_target_and_acts_below_it(fit):
    run = fit("skywork", "--trainer.callbacks.target=5.0")
    assert run.column("aer/alpha") == pytest.approx([0.0, 0.005]) and run.column("aer/applied") == pytest.approx([0.0, 0.005])
    assert (coefficients(run.rollouts[0]) == 0).all() and torch.allclose(coefficients(run.rollouts[1]), torch.tensor(0.005))


def test_aent_moves_by_the_distance_of_the_clamped_entropy_to_its_band(fit):
    run = fit("aent", "--trainer.callbacks.entropy_low=2.0", "--trainer.callbacks.entropy_high=3.0")
    first, second = run.rows
    assert run.column("aer/alpha") == pytest.approx([0.0, 0.1 * (2.0 - first["rollout/regularised_entropy"])])
    assert torch.allclose(coefficients(run.rollouts[1]), torch.tensor(second["aer/alpha"]))
    assert 0 < first["rollout/regularised_entropy"] < first["rollout/entropy"]
    assert second["train/entropy_bonus"] == pytest.approx(second["aer/alpha"] * second["rollout/regularised_entropy"], rel=0.2)


def test_siren_is_anchored_at_its_own_masked_entropy(fit):
    run = fit("siren", THREE, "--trainer.callbacks.coefficient=0.5")
    anchor = run.rows[0]["rollout/regularised_entropy"]
    assert run.column("aer/target_entropy") == [anchor] * 3 and anchor > run.rows[0]["rollout/entropy"], "of the peaks"
    expected = [0.0, *(2 * 0.5 * (anchor - row["rollout/regularised_entropy"]) / 0.2 for row in run.rows[:2])]
    assert run.column("aer/alpha") == pytest.approx(expected, rel=1e-5) and expected[2] != 0
    for row, batches in zip(run.rows, run.rollouts, strict=True):
        assert torch.allclose(coefficients(batches), torch.tensor(row["aer/alpha"]))
        assert all(b.scalars == {"entropy_top_p": 0.8, "entropy_quantile": 0.8} for b in batches)


def test_clip_cov_drops_tokens_of_high_covariance(fit):
    run = fit("clip_cov", "--model.init_args.objective.init_args.clip_share=0.01", "--model.init_args.objective.init_args.cov_low=0.05")
    assert run.model.objective == ClipCovObjective(clip_share=0.01, cov_low=0.05, cov_high=5.0)
    assert run.column("train/entropy_bonus") == [0.0, 0.0]
    assert 0 < sum(run.column("train/covariance_selected")) < 0.1
    for batches in run.rollouts:
        assert all(0 < b.covariance["drop_probability"] < 1 for b in batches)
        assert len({tuple(b.covariance.items()) for b in batches}) == 2, "one set of statistics for each optimizer step"


def test_kl_cov_restrains_the_second_step_of_a_rollout(fit):
    run = fit("kl_cov", "--model.init_args.objective.init_args.kl_share=0.1")
    assert run.model.objective == KLCovObjective(kl_share=0.1, kl_coefficient=1.0)
    assert all(0.02 < share <= 0.12 for share in run.column("train/covariance_selected"))
    assert all(kl > 0 for kl in run.column("train/approx_kl")), "the policy moved within the rollout, so the penalty acts"


def follows(run, rule, scalar):
    """The number that acted in each rollout is the rule's, given what was measured; every batch carried it."""
    state = rule.start()
    values = {state.value}
    for row, batches in zip(run.rows, run.rollouts, strict=True):
        assert row[f"feedback/{scalar}"] == pytest.approx(state.value)
        assert all(batch.scalars == pytest.approx({scalar: state.value}) for batch in batches)
        assert (coefficients(batches) == 0).all() and row["train/entropy_bonus"] == 0.0
        state = rule.update(state, row["rollout/entropy"], row["aer/target_entropy"])
        values.add(state.value)
    assert len(values) > 1, "it moved"


def test_repo_r_rescales_and_follows_the_initial_entropy(fit):
    run = fit("repo_r", THREE)
    follows(run, ZetaRule(), "zeta")
    assert run.column("aer/target_entropy") == [run.rows[0]["rollout/entropy"]] * 3
    for row in run.rows:  # the mean of 1 -+ zeta log pi over the tokens with an advantage
        assert 0 < abs(row["train/advantage_scale"] - 1) < 3 * abs(row["feedback/zeta"])


def test_adapo_moves_the_upper_clip_bound(fit):
    run = fit("adapo", THREE)
    follows(run, ClipHighRule(), "clip_high")
    assert run.column("aer/target_entropy") == [run.rows[0]["rollout/entropy"]] * 3


def test_stare_opens_its_gate_below_the_target_alone(fit):
    run = fit("stare", THREE)
    assert run.column("feedback/surprisal_weight") == [1.0] * 3, "the entropy is near H_0 and the target half of it"
    for row, batches in zip(run.rows, run.rollouts, strict=True):
        chosen = total = 0
        for batch in batches:
            positive = int((batch.response_lengths * (batch.advantage > 0)).sum())
            chosen, total = chosen + math.ceil(round(0.1 * positive, 6)), total + int(batch.response_lengths.sum())
        assert row["train/surprisal_selected"] == pytest.approx(chosen / total), "exactly a tenth of each step's positive tokens"


def test_entropic_weights_sure_tokens(fit):
    run = fit("entropic")
    follows(run, SureWeightRule(), "sure_weight")
    assert all(0.1 < share < 1 for share in run.column("train/sure_tokens"))


def test_positive_advantage_reweighting_starts_on_wrong_answers_alone(fit):
    run = fit("pos_adv")
    follows(run, PositiveWeightRule(), "positive_weight")
    assert run.rows[0]["feedback/positive_weight"] == 0.0 and run.rows[0]["feedback/at_limit"] == -1


def test_on_policy_takes_one_step_a_rollout_at_ratio_one(fit):
    run = fit("on_policy", "--data.init_args.optimizer_steps_per_rollout=1")
    assert [len(batches) for batches in run.rollouts] == [1, 1] and run.trainer.global_step == 2
    assert run.column("train/ratio_max") == [1.0, 1.0] and run.column("train/entropy_bonus") == [0.0, 0.0]
    assert load("on_policy")["data"]["init_args"] == {"optimizer_steps_per_rollout": 1}


def moving(name, folder):
    """An ablation's own file with an alpha that starts above 0 and may fall below it."""
    config = yaml.safe_load(Path(files(name)[-1]).read_text())
    config["trainer"]["callbacks"][1]["init_args"] |= {"alpha_init": 0.05, "alpha_min": -0.2}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return ["-c", "configs/aer.yaml", "-c", str(path)]


def test_without_difficulty_every_prompt_gets_alpha(fit, tmp_path_factory):
    run = fit("no_difficulty", configs=moving("no_difficulty", tmp_path_factory.mktemp("stack")))
    for row, batches in zip(run.rows, run.rollouts, strict=True):
        assert torch.allclose(coefficients(batches), torch.tensor(row["aer/alpha"])) and accuracies(batches).max() > 0.5
        assert row["aer/active_tokens"] == 1.0


def test_without_an_anchor_the_target_is_a_constant(fit, tmp_path_factory):
    run = fit("no_anchor", configs=moving("no_anchor", tmp_path_factory.mktemp("stack")))
    assert run.column("aer/target_entropy") == pytest.approx([0.2, 0.2])
    # Far above that target alpha falls by ki times the relative error.
    first = run.rows[0]
    assert run.rows[1]["aer/alpha"] == pytest.approx(max(-0.2, first["aer/alpha"] + 0.004 * (0.2 - first["rollout/entropy"]) / 0.2))


def test_without_a_controller_the_coefficient_is_constant_times_difficulty(fit):
    run = fit("no_controller")
    assert run.column("aer/alpha") == pytest.approx([0.03, 0.03])
    assert run.column("aer/mean_coefficient") == pytest.approx([0.03, 0.03])
    for batches in run.rollouts:
        weights = ((0.5 - accuracies(batches)) / 0.5).clamp(0, 1)
        rising = coefficients(batches)[weights.argsort()].diff()
        assert (rising >= 0).all() and coefficients(batches).max() <= 6 * 0.03, "ordered by difficulty, normalised"


def load(name):
    def read(path):
        with open(path) as file:
            return yaml.safe_load(file)

    return [read(path) for path in files(name) if path != "-c"][-1]


@pytest.mark.parametrize("name", [*BASELINES, *RIVALS, *ABLATIONS])
def test_overlays_name_themselves_and_leave_task_and_budget_alone(name, cli):
    overlay = load(name)
    assert overlay["name"] == name
    classes = [c["class_path"].rpartition(".")[2] for c in overlay["trainer"]["callbacks"]]
    assert classes == STACKS.get(name, ["FixedCoefficient"])
    assert overlay["trainer"].keys() == {"callbacks"}, "neither epochs nor devices"
    assert overlay.get("model", {"init_args": {}})["init_args"].keys() <= {"objective"}, "neither the model nor the learning rate"
    budget = {"optimizer_steps_per_rollout"} if name in ("kl_cov", "adapo", "on_policy") else set()
    method = {"dynamic_sampling", "overlong"}
    assert overlay.get("data", {"init_args": {}})["init_args"].keys() <= method | budget


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_leave_one_part_out_and_keep_the_rest_of_the_default(name, cli):
    def parts(config):
        return {c["class_path"].rpartition(".")[2]: c["init_args"] for c in config["trainer"]["callbacks"]}

    default, ablated = parts(load("aer")), parts(load(name))
    changed = {"no_difficulty": "DifficultyCoefficient", "no_anchor": "EntropyAnchor", "no_controller": "GlobalCoefficient"}[name]
    for part in default.keys() - {changed} - ({"EntropyAnchor"} if name == "no_controller" else set()):
        assert ablated[part] == default[part]
    assert ablated.get(changed) != default[changed]

import lightning.pytorch as pl
import pytest
import torch

from aer_lightning.callbacks import EntropyAnchor, FixedCoefficient, GlobalCoefficient
from aer_lightning.callbacks.checkpoint import RolloutCheckpoint
from aer_lightning.callbacks.summary import Summary
from aer_lightning.checkpoints.folder import checkpoints, read_manifest
from aer_lightning.checkpoints.restore import read_state, read_tensors
from aer_lightning.data.prompts import CountdownPrompts
from aer_lightning.errors import ConfigError, DataError, SaveError


def steps(folder):
    return [read_manifest(path)["step"] for path in reversed(checkpoints(folder / "checkpoints"))]


def adamw(lr=1e-3, **options):
    return lambda params: torch.optim.AdamW(params, **({"lr": lr, "weight_decay": 0.0} | options))


def stack():
    return [EntropyAnchor(), GlobalCoefficient()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"every_n_rollouts": 2}, [1, 3, 5, 6]),
        ({"every_n_rollouts": None, "every_minutes": None}, [1, 6]),
        ({"every_n_rollouts": None, "every_minutes": 1e-9}, [1, 2, 3, 4, 5, 6]),
        ({"keep_last": 2, "every_n_rollouts": 1}, [5, 6]),
    ],
)
def test_after_the_first_rollout_then_by_rollouts_and_minutes_and_at_the_end(runs, tmp_path, options, expected):
    callback = RolloutCheckpoint(**({"keep_last": 100} | options))
    runs.fit([FixedCoefficient(0.1), callback], max_epochs=3)
    assert steps(tmp_path) == expected


def test_it_holds_the_whole_run(runs, tmp_path):
    trainer, module, _ = runs.fit([*stack(), RolloutCheckpoint()], max_epochs=1)
    path = checkpoints(tmp_path / "checkpoints")[0]
    tensors, state, facts = read_tensors(path, ["model.", "optimizer."]), read_state(path), read_manifest(path)
    assert all(torch.equal(tensor, tensors[f"model.{name}"]) for name, tensor in module.state_dict().items())
    count = len([name for name in tensors if name.startswith("optimizer.0.") and name.endswith(".exp_avg")])
    assert count == len(list(module.parameters()))
    assert {"EntropyAnchor", "GlobalCoefficient", "RandomState", "RolloutCheckpoint"} <= state["callbacks"].keys()
    assert state["weight_version"] == facts["step"] == trainer.global_step == 2 and facts["rollouts"] == 2


def test_a_tied_model_comes_back(runs, tmp_path, random_llama):
    options = {"pretrained": str(random_llama)}
    _, module, _ = runs.fit([FixedCoefficient(0.1), RolloutCheckpoint()], module=runs.module(**options))
    path = checkpoints(tmp_path / "checkpoints")[0]
    _, again, _ = runs.fit([FixedCoefficient(0.1), RolloutCheckpoint()], module=runs.module(**options), ckpt_path=path)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in module.state_dict().items())


def fail(self, *args):
    raise OSError(28, "No space left on device")


def test_a_failed_save_is_said_and_tried_again(runs, tmp_path, monkeypatch, caplog):
    from aer_lightning.checkpoints.saver import Saver

    commit = Saver._commit
    failing = {2, 3}
    monkeypatch.setattr(Saver, "_commit", lambda self, partial, s, files: (fail if s.step in failing else commit)(self, partial, s, files))
    with pytest.warns(UserWarning, match=r"step 2 could not be saved.*No space left on device.*step-00000001.*tries again"):
        runs.fit([FixedCoefficient(0.1), RolloutCheckpoint(every_n_rollouts=1, keep_last=9)], max_epochs=2)
    assert steps(tmp_path) == [1, 4]


def test_a_run_whose_last_state_is_not_saved_does_not_end_as_if_it_were(runs, tmp_path, monkeypatch):
    """What comes after training is there all the same; the same command saves the last state once there is room."""
    from aer_lightning.checkpoints.saver import Saver

    commit = Saver._commit
    monkeypatch.setattr(Saver, "_commit", lambda self, partial, s, files: (fail if s.step > 1 else commit)(self, partial, s, files))
    parts = [FixedCoefficient(0.1), Summary()]
    with (
        pytest.raises(SaveError, match=r"last step, 2, could not be saved \(No space left on device\).*--resume auto"),
        pytest.warns(UserWarning),
    ):
        runs.fit([*parts, RolloutCheckpoint(every_n_rollouts=1)])
    assert steps(tmp_path) == [1] and (tmp_path / "summary.json").exists()
    assert not (tmp_path / "checkpoints" / "complete.json").exists()
    monkeypatch.undo()
    runs.fit([*parts, RolloutCheckpoint(every_n_rollouts=1)], ckpt_path=last(tmp_path))
    assert steps(tmp_path) == [1, 2] and (tmp_path / "checkpoints" / "complete.json").exists()


def test_a_failed_save_can_stop_the_run(runs, monkeypatch):
    from aer_lightning.checkpoints.saver import Saver

    monkeypatch.setattr(Saver, "_commit", fail)
    with pytest.raises(SaveError, match=r"step 1 could not be saved.*there is no checkpoint yet.*on_save_error"):
        runs.fit([FixedCoefficient(0.1), RolloutCheckpoint(on_save_error="stop")], max_epochs=3)


def fit(runs, *, module=None, ckpt=None, callbacks=None, epochs=1, **kwargs):
    callbacks = stack() if callbacks is None else callbacks
    return runs.fit([*callbacks, RolloutCheckpoint(keep_last=9)], module=module, ckpt_path=ckpt, max_epochs=epochs, **kwargs)


def last(folder):
    return checkpoints(folder / "checkpoints")[0]


def test_a_part_without_a_state_is_refused(runs, tmp_path):
    fit(runs, callbacks=[FixedCoefficient(0.1)])
    with pytest.raises(DataError, match=r"^ckpt_path: .* has no state of EntropyAnchor, GlobalCoefficient"):
        fit(runs, ckpt=last(tmp_path), epochs=2)


def test_another_optimizer_is_refused(runs, tmp_path):
    fit(runs)
    module = runs.module(optimizer=lambda params: torch.optim.Adam(params, lr=1e-3))
    with pytest.raises(ConfigError, match=r"^model\.init_args\.optimizer: the checkpoint has AdamW, this run Adam"):
        fit(runs, module=module, ckpt=last(tmp_path), epochs=2)


def test_another_learning_rate_takes_effect(runs, tmp_path):
    fit(runs)
    trainer, *_ = fit(runs, module=runs.module(optimizer=adamw(2e-3, betas=(0.8, 0.9))), ckpt=last(tmp_path), epochs=2)
    (group,) = trainer.optimizers[0].param_groups
    assert group["lr"] == 2e-3 and tuple(group["betas"]) == (0.8, 0.9)


def test_another_schedule_stands_where_it_would_have_stood(runs, tmp_path):
    def linear(total):
        return lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total)

    def rate(trainer):
        return trainer.optimizers[0].param_groups[0]["lr"]

    fit(runs, module=runs.module(lr_scheduler=linear(8)))
    trainer, *_ = fit(runs, module=runs.module(lr_scheduler=linear(8)), ckpt=last(tmp_path), epochs=2)
    assert rate(trainer) == pytest.approx(1e-3 * 4 / 8), "unchanged, it goes on"
    first = checkpoints(tmp_path / "checkpoints")[-1]
    trainer, *_ = fit(runs, module=runs.module(lr_scheduler=linear(16)), ckpt=first, epochs=2)
    assert rate(trainer) == pytest.approx(1e-3 * 12 / 16)
    trainer, *_ = fit(runs, module=runs.module(), ckpt=first, epochs=2)
    assert rate(trainer) == 1e-3, "no schedule any more"
    trainer, *_ = fit(runs, module=runs.module(optimizer=adamw(4e-3), lr_scheduler=linear(16)), ckpt=first, epochs=2)
    assert rate(trainer) == pytest.approx(4e-3 * 12 / 16)


def test_a_run_that_died_after_its_last_step_evaluates_and_reports(runs, tmp_path):
    """By epochs and by steps: the checkpoint of the last step, then validation and the end of training."""
    evaluation = {"evaluation": [CountdownPrompts(split="validation", numbers=(2,), size=2)]}

    class Died(BaseException):
        pass

    class Dies(pl.Callback):
        def on_validation_start(self, trainer, pl_module):
            if trainer.global_step == 2:
                raise Died

    for limits in ({"max_epochs": 1}, {"max_epochs": -1, "max_steps": 2}):
        with pytest.raises(Died):
            runs.fit([FixedCoefficient(0.1), Summary(), Dies(), RolloutCheckpoint()], data=runs.data(**evaluation), **limits)
        assert not (tmp_path / "summary.json").exists()
        trainer, *_ = runs.fit(
            [FixedCoefficient(0.1), Summary(), RolloutCheckpoint()], data=runs.data(**evaluation), ckpt_path=last(tmp_path), **limits
        )
        assert trainer.global_step == 2 and "val/countdown/pass@1" in trainer.callback_metrics
        assert (tmp_path / "summary.json").exists() and (tmp_path / "checkpoints" / "complete.json").exists()
        (tmp_path / "summary.json").unlink()


def test_a_run_may_go_on_twice_across_the_end_of_an_epoch(runs, tmp_path):
    """From the last step of an epoch, then from the first of the next: every epoch has its evaluation, and the counters are the same."""

    class Epochs(pl.Callback):
        def __init__(self):
            self.seen = []

        def on_train_epoch_start(self, trainer, pl_module):
            self.seen.append(("epoch", trainer.current_epoch, trainer.global_step))

        def on_validation_end(self, trainer, pl_module):
            self.seen.append(("evaluation", trainer.current_epoch, trainer.global_step))

    def run(folder, ckpt=None):
        epochs, keep = Epochs(), RolloutCheckpoint(every_n_rollouts=1, keep_last=9)
        data = runs.data(evaluation=[CountdownPrompts(split="validation", numbers=(2,), size=2)])
        runs.fit([*stack(), epochs, keep], data=data, ckpt_path=ckpt, max_epochs=3, default_root_dir=str(tmp_path / folder))
        return epochs.seen

    def path(folder, step):
        return tmp_path / folder / "checkpoints" / f"step-{step:08d}.ckpt"

    def progress(folder, step):
        loops = read_state(path(folder, step))["loops"]["fit_loop"]
        return loops["epoch_progress"], loops["epoch_loop.batch_progress"]

    whole = run("whole")
    assert run("once", path("whole", 2)) == [("evaluation", 0, 2), *whole[2:]]
    assert progress("once", 3) == progress("whole", 3)
    assert run("twice", path("once", 3)) == whole[3:] and whole[3] == ("evaluation", 1, 4)


@pytest.mark.parametrize(
    "options", [{"every_n_rollouts": 0}, {"every_minutes": 0.0}, {"keep_last": 0}, {"on_save_error": "ignore"}], ids=lambda o: next(iter(o))
)
def test_impossible_options(options):
    with pytest.raises(ConfigError, match=rf"^checkpoint\.{next(iter(options))}: "):
        RolloutCheckpoint(**options)

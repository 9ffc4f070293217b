"""What every coefficient does: lambda in the batch, one move per rollout, a visible state, a state that survives."""

import io

import pytest
import torch

import aer_lightning.callbacks.coefficient as coefficient
from aer_lightning.callbacks import AEntCoefficient, FixedCoefficient, GlobalCoefficient, SkyworkCoefficient
from aer_lightning.callbacks.coefficient import CoefficientCallback


class Counting(CoefficientCallback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def advance(self, batch):
        self.seen.append(batch.info.entropy)
        self.alpha += 0.25

    def limits(self):
        return 0.0, 0.5


def test_lambda_is_written_to_every_sequence(stack, make_batch):
    callback = Counting()
    callback.alpha = 0.125
    batch = stack.step([callback], make_batch(accuracy=(0.0, 0.5, 1.0)))
    assert batch.entropy_coefficient.tolist() == [0.125] * 3


def test_one_move_per_rollout_whatever_its_micro_batches(stack, make_batch):
    callback = Counting()
    for index in range(2):
        for part in range(4):
            stack.step([callback], make_batch(0.3 + index, index=index, first=part == 0, last=part == 3))
            assert callback.rollouts == index + (part == 3)
    assert callback.seen == [0.3, 1.3] and callback.alpha == 0.5


def test_what_is_logged_is_the_state_that_acted(stack):
    rows = stack.rollouts([Counting()], [0.4] * 4)
    assert [row["aer/alpha"] for row in rows] == [0.0, 0.25, 0.5, 0.75]
    assert [row["aer/applied"] for row in rows] == [0.0, 0.25, 0.5, 0.75]
    assert [row["aer/at_limit"] for row in rows] == [-1.0, 0.0, 1.0, 1.0]


def test_share_of_tokens_under_regularisation_is_over_the_whole_rollout(stack, make_batch):
    class HardOnly(Counting):
        def on_train_batch_start(self, *args):
            super().on_train_batch_start(*args)
            batch = args[2]
            batch.entropy_coefficient = (batch.group_accuracy == 0).float()

    callback = HardOnly()
    stack.step([callback], make_batch(accuracy=(0.0, 1.0), tokens=(2, 6), last=False))
    assert "aer/active_tokens" not in stack.logged
    stack.step([callback], make_batch(accuracy=(0.0, 1.0), tokens=(7, 1), first=False))
    assert stack.logged["aer/active_tokens"] == stack.logged["aer/mean_coefficient"] == pytest.approx((2 + 7) / 16)
    stack.step([callback], make_batch(accuracy=(1.0, 1.0), index=1))
    assert stack.logged["aer/active_tokens"] == 0.0, "the next rollout counts anew"


def test_a_negative_coefficient_is_regularisation_too(stack, make_batch):
    callback = Counting()
    callback.alpha = -0.1
    stack.step([callback], make_batch(accuracy=(0.0, 1.0), tokens=(2, 6)))
    assert stack.logged["aer/active_tokens"] == 1.0 and stack.logged["aer/mean_coefficient"] == pytest.approx(-0.1)


def test_tokens_are_summed_over_ranks(stack, make_batch, monkeypatch):
    """The other rank has three times the tokens, none of them under regularisation."""
    monkeypatch.setattr(coefficient, "sum_over_ranks", lambda values, device: [*values[:2], 4 * values[2]])
    callback = Counting()
    callback.alpha = 0.1
    stack.step([callback], make_batch(tokens=(3, 5)))
    assert stack.logged["aer/active_tokens"] == pytest.approx(0.25)
    assert stack.logged["aer/mean_coefficient"] == pytest.approx(0.025)


def test_each_rank_takes_back_its_own_count(stack, make_batch, monkeypatch):
    state = {"alpha": 0.25, "rollouts": 3, "sums": [[1.0, 0.1, 2.0], [3.0, 0.2, 4.0]]}
    monkeypatch.setattr(coefficient, "rank", lambda: 1)
    callback = Counting()
    callback.load_state_dict(state)
    assert callback._sums == [3.0, 0.2, 4.0]
    monkeypatch.setattr(coefficient, "rank", lambda: 2)  # resumed on more ranks than there were
    callback.load_state_dict(state)
    assert callback._sums == [0.0, 0.0, 0.0]


MAKERS = {
    "fixed": lambda: FixedCoefficient(0.1),
    "global": lambda: GlobalCoefficient(eta=0.07, alpha_init=0.01, smoothing=0.3),
    "pi": lambda: GlobalCoefficient(kp=0.3, ki=0.07, alpha_init=0.01, smoothing=0.3, alpha_min=-0.2),
    "skywork": lambda: SkyworkCoefficient(target=0.35, delta=0.003),
    "aent": lambda: AEntCoefficient(entropy_low=0.3, entropy_high=0.35, lr=0.1, alpha_init=0.02),
}
ENTROPIES = [0.4, 0.1 + 0.2, 1 / 3, 0.29, 0.5, 0.31, 0.2]


@pytest.mark.parametrize("name", MAKERS)
def test_state_survives_a_checkpoint_bit_for_bit(name, stack, make_batch):
    """Stopped inside a rollout and taken up by a fresh callback, the run goes on as if it had never stopped."""

    def run(stop):
        callback, rows, fed = MAKERS[name](), [], 0
        for index, entropy in enumerate(ENTROPIES):
            for part in range(2):
                if fed == stop:
                    buffer = io.BytesIO()
                    torch.save(callback.state_dict(), buffer)
                    buffer.seek(0)
                    callback = MAKERS[name]()
                    callback.load_state_dict(torch.load(buffer, weights_only=True))
                batch = make_batch(entropy, index=index, first=part == 0, last=part == 1, accuracy=(0.0, 0.2 * part))
                batch.target_entropy = 0.32
                stack.logged = {}
                stack.step([callback], batch)
                rows.append((dict(stack.logged), batch.entropy_coefficient.tolist()))
                fed += 1
        return rows, callback.alpha, callback.rollouts

    whole = run(None)
    assert all(run(stop) == whole for stop in (3, 6, 9))
    assert whole[2] == len(ENTROPIES)

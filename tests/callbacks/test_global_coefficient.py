"""The controller of AER as a callback: after the first rollout's H_0, alpha moves once per rollout towards H* = tau H_0."""

import pytest
import torch

from aer_lightning.callbacks import DifficultyCoefficient, EntropyAnchor, GlobalCoefficient
from aer_lightning.errors import ConfigError


def aer(tau=0.5, **kwargs):
    return [EntropyAnchor(tau=tau), GlobalCoefficient(**kwargs)]


def test_proportional_steps_by_hand(stack):
    # H_0 = 0.4, H* = 0.2. Errors: -1, 0, 0.5, 0.25.
    rows = stack.rollouts(aer(eta=0.1, alpha_init=0.2), [0.4, 0.2, 0.1, 0.15, 0.2])
    assert [row["aer/alpha"] for row in rows] == pytest.approx([0.2, 0.1, 0.1, 0.15, 0.175])
    assert {row["aer/target_entropy"] for row in rows} == {0.2}


def test_sign_steps_by_hand(stack):
    rows = stack.rollouts(aer(controller="sign", eta=0.1, alpha_init=0.2), [0.4, 0.2, 0.19, 0.001, 0.2])
    assert [row["aer/alpha"] for row in rows] == pytest.approx([0.2, 0.1, 0.1, 0.2, 0.3])


def test_pi_steps_by_hand(stack):
    """H* = 0.2: errors -1, 0, .5, .25; the first has no change, the last comes down by .25."""
    rows = stack.rollouts(aer(controller="pi", kp=0.2, ki=0.1, alpha_init=0.2), [0.4, 0.2, 0.1, 0.15, 0.2])
    first = 0.2 - 0.1
    expected = [0.2, first, first + 0.2, first + 0.2 + 0.1 + 0.05, first + 0.35 - 0.05 + 0.025]
    assert [row["aer/alpha"] for row in rows] == pytest.approx(expected)


def test_pi_goes_below_zero_where_it_may(stack):
    rows = stack.rollouts(aer(kp=0.1, ki=0.1, alpha_min=-0.15), [0.4, 0.4, 0.4, 0.2, 0.2])
    assert [row["aer/alpha"] for row in rows] == pytest.approx([0.0, -0.1, -0.15, -0.15, -0.05])
    assert [row["aer/at_limit"] for row in rows] == [0, 0, -1, -1, 0]
    assert rows[1]["aer/active_tokens"] == 1.0


def test_which_controller_is_built():
    kinds = {
        "PIController": [{}, {"controller": "pi"}, {"kp": 0.2, "ki": 0.1}],
        "ProportionalController": [{"eta": 0.1}, {"controller": "proportional"}],
        "SignController": [{"controller": "sign"}],
    }
    for name, options in kinds.items():
        assert {type(GlobalCoefficient(**kwargs).controller).__name__ for kwargs in options} == {name}


@pytest.mark.parametrize("controller", ["pi", "proportional", "sign"])
def test_alpha_recovers_from_zero(stack, controller):
    """It is driven to 0 by an entropy far above the target, and leaves it in the very rollout after the entropy has fallen below."""
    gains = {"kp": 0.05, "ki": 0.05} if controller == "pi" else {"eta": 0.05}
    callbacks = aer(controller=controller, alpha_init=0.02, **gains)
    rows = stack.rollouts(callbacks, [0.8, 0.8, 0.8, 0.3, 0.3, 0.3])
    alphas = [row["aer/alpha"] for row in rows]
    assert alphas[1:4] == [0.0, 0.0, 0.0] and 0 < alphas[4] < alphas[5]
    assert [row["aer/at_limit"] for row in rows] == [0, -1, -1, -1, 0, 0]
    assert rows[3]["aer/active_tokens"] == 0.0 and rows[4]["aer/active_tokens"] == 1.0


def test_a_saturated_controller_says_so(stack):
    rows = stack.rollouts(aer(eta=1.0, alpha_max=0.3), [0.4, 0.1, 0.1, 0.1])
    assert [row["aer/alpha"] for row in rows] == pytest.approx([0.0, 0.0, 0.3, 0.3])
    assert [row["aer/at_limit"] for row in rows] == [-1, -1, 1, 1]


def test_smoothing_is_what_the_controller_sees(stack):
    callbacks = aer(eta=0.1, alpha_init=0.5, smoothing=0.75)
    rows = stack.rollouts(callbacks, [0.4, 0.2, 0.1, 0.1])
    seen, alpha, expected = None, 0.5, []
    for entropy in (0.4, 0.2, 0.1, 0.1):
        expected.append(alpha)
        seen = entropy if seen is None else 0.75 * seen + 0.25 * entropy
        alpha += 0.1 * (0.2 - seen) / 0.2
    assert [row["aer/alpha"] for row in rows] == pytest.approx(expected)
    assert callbacks[1].alpha == pytest.approx(alpha) and callbacks[1].seen == pytest.approx(seen)
    assert [row["aer/entropy_over_target"] for row in rows] == pytest.approx([2, 1, 0.5, 0.5]), "what is logged is not smoothed"


def test_without_smoothing_it_is_the_entropy_itself(stack):
    smooth, plain = aer(smoothing=0.9), aer()
    assert stack.rollouts(smooth, [0.4, 0.1, 0.4]) != stack.rollouts(plain, [0.4, 0.1, 0.4])
    assert plain[1].seen == 0.4


def test_it_holds_a_simulated_policy_at_its_target(stack):
    """A policy whose entropy settles at 0.1 + 2 x (mean coefficient): H* = 0.3 needs a mean coefficient of 0.1, from any start."""
    for start in (0.0, 0.5):
        callbacks = [EntropyAnchor(absolute=0.3), GlobalCoefficient(eta=0.02, alpha_init=start), DifficultyCoefficient(rho=0.5)]
        entropy = 0.5
        for _ in range(300):
            stack.rollouts(callbacks, [entropy], accuracy=(0.25, 1.0))
            # The hinge gives half of alpha to the first sequence and nothing to the second: a mean of alpha / 4.
            entropy += 0.2 * (0.1 + 2 * callbacks[1].alpha / 4 - entropy)
        assert entropy == pytest.approx(0.3, abs=0.01) and callbacks[1].alpha == pytest.approx(0.4, abs=0.03)


def test_the_target_of_the_whole_rollout_is_the_same(stack, make_batch):
    callbacks = aer(eta=0.1, alpha_init=0.2)
    for part in range(3):
        batch = stack.step(callbacks, make_batch(0.4, first=part == 0, last=part == 2))
        assert batch.entropy_coefficient.tolist() == pytest.approx([0.2, 0.2]) and batch.target_entropy == pytest.approx(0.2)
    assert callbacks[1].alpha == pytest.approx(0.1) and callbacks[1].rollouts == 1


class Trainer:
    """An optimizer with a learning rate, which is all that the rate is read from."""

    def __init__(self, lr):
        self.optimizers = [torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)]


def last_alpha(make_batch, stack, steps, lr, **options):
    """alpha after H = .4, .2 with H* = .2 and two rollouts of ``steps`` optimizer steps."""
    callbacks, trainer = aer(alpha_init=0.5, **options), Trainer(lr)
    for index, entropy in enumerate((0.4, 0.2)):
        for part in range(steps):
            batch = make_batch(entropy, index=index, first=part == 0, last=part == steps - 1)
            for hook, extra in (("on_train_batch_start", ()), ("on_train_batch_end", (None,))):
                for callback in callbacks:
                    getattr(callback, hook)(trainer, stack, *extra, batch, 0)
    return callbacks[1].alpha


@pytest.mark.parametrize(
    ("steps", "lr", "factor"), [(1, 1e-4, 1.0), (4, 1e-4, 0.5), (1, 4e-4, 0.5), (1, 2.5e-5, 2.0), (2, 5e-5, 1.0), (1, 1.0, 0.25)]
)
def test_kp_follows_the_root_of_learning_rate_times_steps(make_batch, stack, steps, lr, factor):
    """e goes from -1 to 0: alpha = .5 - ki + kp x factor. The factor is at most 4 either way."""
    found = last_alpha(make_batch, stack, steps, lr, kp=0.2, ki=0.1, rate=1e-4)
    assert found == pytest.approx(0.5 - 0.1 + 0.2 * factor)
    assert last_alpha(make_batch, stack, steps, lr, kp=0.2, ki=0.1) == pytest.approx(0.6), "as it is, without a rate"


def test_a_learning_rate_of_zero_scales_nothing(make_batch, stack):
    assert last_alpha(make_batch, stack, 1, 0.0, kp=0.2, ki=0.1, rate=1e-4) == pytest.approx(0.6)


def test_the_steps_of_an_unfinished_rollout_are_kept(make_batch, stack):
    first, second = (GlobalCoefficient(kp=0.2, ki=0.1, rate=1e-4) for _ in range(2))
    first.on_train_batch_start(Trainer(1e-4), stack, make_batch(0.4, last=False), 0)
    assert first.moved == 1e-4
    second.load_state_dict(first.state_dict())
    assert second.moved == 1e-4


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"kp": 0.2, "ki": 0.1, "rate": 0.0}, "rate"),
        ({"controller": "sign", "rate": 1e-4}, "rate"),
        ({"eta": 0.0}, "eta"),
        ({"alpha_max": 0.1, "alpha_init": 0.2}, "alpha_init"),
        ({"controller": "product"}, "controller"),
        ({"kp": 0.3}, "ki"),
        ({"ki": 0.3}, "kp"),
        ({"controller": "pi", "kp": -0.3, "ki": 0.1}, "kp"),
        ({"kp": 0.3, "ki": -0.1}, "ki"),
        ({"controller": "pi", "eta": 0.1}, "eta"),
        ({"controller": "sign", "kp": 0.1, "ki": 0.1}, "kp"),
        ({"kp": 0.1, "ki": 0.1, "eta": 0.1}, "kp"),
        ({"alpha_min": 0.1, "alpha_init": 0.2}, "alpha_min"),
    ],
)
def test_options_are_checked_when_built(options, name):
    with pytest.raises(ConfigError, match=rf"^{name}: ") as caught:
        GlobalCoefficient(**options)
    assert "\n" not in str(caught.value)

"""Users' parts are taken by what they have; what lacks something is refused with the class, the member and what it should be."""

import pytest
import torch

from aer_lightning.algorithms.controllers import Controller
from aer_lightning.algorithms.difficulty import Weight, difficulty_weight, normalisation
from aer_lightning.algorithms.objectives import Objective
from aer_lightning.callbacks import DifficultyCoefficient, GlobalCoefficient
from aer_lightning.data.datamodule import RolloutDataModule
from aer_lightning.data.engines import TransformersEngine
from aer_lightning.data.engines.base import Engine
from aer_lightning.data.prompts import CountdownPrompts
from aer_lightning.data.prompts.base import PromptSource
from aer_lightning.data.rewards import Grader, MathGrader
from aer_lightning.errors import ConfigError
from aer_lightning.modules.policy import PolicyModule
from aer_lightning.parts import check_part


class Plain:
    """Nothing annotated, positional parameters named as one likes."""

    isolated = False

    def check_gold(self, a):
        return None

    def grade(self, *args):
        return None


def test_what_has_the_members_passes():
    check_part(Plain(), Grader, "x")
    check_part(MathGrader(), Grader, "x")
    check_part(TransformersEngine(), Engine, "x")
    check_part(CountdownPrompts(), PromptSource, "x")
    check_part(lambda inputs: None, Objective, "x")
    check_part(lambda g: g, Weight, "x")


def without(name):
    return type("Lacking", (), {k: v for k, v in vars(Plain).items() if k != name})()


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (without("grade"), ["the.option", "Lacking", "no method grade(completion, answer", "a Grader needs"]),
        (without("isolated"), ["Lacking", "no attribute isolated (True if", "has to run in a killable"]),
        (type("Short", (Plain,), {"grade": lambda self, text: None})(), ["Short.grade", "grade(completion, answer", "too many"]),
        (type("Not", (Plain,), {"grade": 3})(), ["Not", "no method grade"]),
    ],
)
def test_what_lacks_one_is_refused(part, words):
    with pytest.raises(ConfigError) as caught:
        check_part(part, Grader, "the.option")
    assert all(word in str(caught.value) for word in words), caught.value


def test_keyword_arguments_keep_their_names():
    class Renamed(TransformersEngine):
        def start(self, model_folder, *, max_len, device, seed):
            pass

    with pytest.raises(ConfigError, match=r"Renamed\.start cannot be called as start\(model_folder, \*, max_model_len, device, seed\)"):
        check_part(Renamed(), Engine, "data.init_args.engine")


def test_every_place_that_takes_a_part_checks_it(random_model):
    class Nothing:
        pass

    for build, words in [
        (lambda: RolloutDataModule(prompts=Nothing()), ["data.init_args.prompts", "Nothing"]),
        (lambda: RolloutDataModule(evaluation=[CountdownPrompts(), Nothing()]), ["data.init_args.evaluation[1]", "Nothing"]),
        (lambda: RolloutDataModule(engine=Nothing()), ["data.init_args.engine", "Nothing has no", "an Engine needs"]),
        (lambda: PolicyModule(str(random_model), objective=Nothing()), ["model.init_args.objective", "no method __call__(inputs)"]),
        (lambda: GlobalCoefficient(controller=Nothing()), ["GlobalCoefficient.controller", "alpha_init (alpha of the first rollout)"]),
        (lambda: DifficultyCoefficient(shape=3), ["shape", "hinge"]),
    ]:
        with pytest.raises(ConfigError) as caught:
            build()
        assert all(word in str(caught.value) for word in words), caught.value


def test_a_grader_is_checked_before_a_model_is_loaded(runs, monkeypatch):
    class Bad(CountdownPrompts):
        def __init__(self):
            super().__init__()
            self.grader = 3

    monkeypatch.setattr("aer_lightning.modules.policy.load_network", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ConfigError, match="the grader of countdown: int has no"):
        runs.fit(data=runs.data(prompts=Bad()))


def test_a_controller_of_ones_own_has_its_own_options():
    from examples.controller import DeadBand

    coefficient = GlobalCoefficient(controller=DeadBand(step=0.5), smoothing=0.5)
    assert coefficient.alpha == 0.05 and coefficient.limits() == (0.0, 1.0)
    check_part(DeadBand(), Controller, "x")
    for option in ({"eta": 0.1}, {"kp": 0.1}, {"alpha_max": 2.0}):
        with pytest.raises(ConfigError, match=f"{next(iter(option))}: .*DeadBand has its own"):
            GlobalCoefficient(controller=DeadBand(), **option)


def test_a_weight_of_ones_own():
    from examples.weight import middle

    g = torch.tensor([0.0, 0.5, 1.0])
    assert difficulty_weight(g, shape=middle).tolist() == [0.0, 1.0, 0.0]
    assert normalisation([10, 20, 70], shape=middle) == (5.0, 0.0)
    assert DifficultyCoefficient(shape=middle).shape is middle

"""The turns of trainer and engine on one device: their order, what each phase holds, and that parking changes no bit."""

import pytest
import torch

from aer_lightning.data.engines import TransformersEngine
from aer_lightning.errors import ConfigError
from aer_lightning.modules.memory import MemorySchedule, NoAllocator, Park, optimizer_tensors


class Device(NoAllocator):
    """A card on which the trainer's weights (4 units), gradients (4) and optimizer states (8) meet the engine's weights (6) and cache (16).

    What is freed is held by the trainer's cache until that is emptied.
    """

    shared, pinned = True, False

    def __init__(self, limit):
        self.limit, self.held, self.cached, self.diary = limit, {"weights": 4, "gradients": 4, "states": 8}, 0, []

    def take(self, name, units):
        self.held[name] = units
        used = sum(self.held.values()) + self.cached
        assert used <= self.limit, f"{name} needs {used} of {self.limit}: {self.held}, {self.cached} cached"

    def free(self, *names):
        for name in names:
            self.cached += self.held.pop(name, 0)

    def empty_cache(self):
        self.cached = 0
        self.diary.append("empty_cache")

    def ipc_collect(self):
        self.diary.append("ipc_collect")


class Engine:
    def __init__(self, device):
        self.device, self.weight_version = device, -1

    def sync_weights(self, named_weights, version):
        assert "cache" not in self.device.held, "the cache wakes after the weights have come"
        self.device.take("engine weights", 6)
        self.weight_version = version
        self.device.diary.append("sync")

    def generate(self):
        self.device.take("cache", 16)
        self.device.diary.append("generate")

    def sleep(self):
        self.device.held.pop("cache"), self.device.held.pop("engine weights")
        self.weight_version = -1  # level 2: nothing is kept
        self.device.diary.append("sleep")


def schedule(offload, device):
    """A schedule whose parked tensors are one byte a unit."""
    memory = MemorySchedule(
        offload,
        device,
        weights=lambda: [torch.zeros(4, dtype=torch.uint8)],
        optimizer_states=lambda: [torch.zeros(8, dtype=torch.uint8)],
        free_gradients=lambda: device.free("gradients"),
    )
    for park, name, units in ((memory._states, "states", 8), (memory._weights, "weights", 4)):
        put, take = park.put, park.take

        def leave(tensors, put=put, name=name):
            put(tensors)
            device.free(name)

        def come_back(take=take, park=park, name=name, units=units):
            if park.nbytes:
                device.take(name, units)
            take()

        park.put, park.take = leave, come_back
    return memory


# what generation holds: engine 22, and the trainer's states and weights as far as they stay
@pytest.mark.parametrize(("offload", "limit"), [("none", 34), ("optimizer", 26), ("all", 22)])
def test_the_order_of_a_rollout_stays_within_the_plan(offload, limit):
    device = Device(limit)
    engine, memory = Engine(device), schedule(offload, device)
    for _ in range(3):
        memory.make_room()
        engine.sync_weights([], 1)
        memory.hand_over()
        engine.generate()
        memory.hand_over()
        engine.generate()  # a second batch of an evaluation
        engine.sleep()
        memory.take_back()
        device.take("gradients", 4)
        assert device.held == {"weights": 4, "gradients": 4, "states": 8} and not memory.generating
    events = [e for e in device.diary if e not in ("empty_cache", "ipc_collect")]
    assert events == ["sync", "generate", "generate", "sleep"] * 3
    one = device.diary[: device.diary.index("sleep")]
    assert one.index("empty_cache") < one.index("sync") < one.index("empty_cache", one.index("sync")) < one.index("generate")


@pytest.mark.parametrize(("offload", "limit"), [("none", 33), ("optimizer", 25), ("all", 21)])
def test_the_fake_device_has_power(offload, limit):
    device = Device(limit)
    engine, memory = Engine(device), schedule(offload, device)
    with pytest.raises(AssertionError, match="needs"):
        memory.make_room()
        engine.sync_weights([], 1)
        memory.hand_over()
        engine.generate()


def test_parking_keeps_every_reference_and_every_bit():
    whole = torch.randn(6, 4)
    view, other = whole[2:], torch.randn(3).bfloat16()
    before, after = whole.clone(), other.clone()
    park = Park(pinned=False)
    park.put([whole, view, other])
    assert whole.untyped_storage().nbytes() == other.untyped_storage().nbytes() == 0
    assert park.nbytes == 6 * 4 * 4 + 3 * 2, "a shared storage goes once"
    park.put([whole])
    park.take()
    park.take()
    assert torch.equal(whole, before) and torch.equal(view, before[2:]) and torch.equal(other, after) and park.nbytes == 0


class Shared(NoAllocator):
    """A CPU that pretends to share its memory, so that parking happens."""

    shared = True


@pytest.mark.parametrize("offload", ["optimizer", "all"])
def test_offloading_changes_no_bit(runs, recorder, monkeypatch, offload, tmp_path):
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import ModelCheckpoint

    import aer_lightning.modules.policy as policy_module

    class Own(pl.Callback):
        """Weights read from a file's mapping cannot be freed in place; on a device they are copies anyway."""

        def on_fit_start(self, trainer, pl_module):
            for p in pl_module.parameters():
                p.data = p.data.clone()

    def fit(name, **options):
        keep = ModelCheckpoint(dirpath=tmp_path / name, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        data = runs.data(rollouts_per_epoch=3, optimizer_steps_per_rollout=2, engine=TransformersEngine())
        _, module, _ = runs.fit([Own(), keep, recorder], data=data, module=runs.module(**options))
        return module, torch.load(tmp_path / name / "step=6.ckpt", weights_only=True)

    plain, saved = fit("plain")
    parked = []
    real = Park.put
    monkeypatch.setattr(Park, "put", lambda self, tensors: (real(self, tensors), parked.append(self.nbytes))[0])
    monkeypatch.setattr(policy_module, "NoAllocator", Shared)
    module, same = fit("parked", offload=offload)
    assert max(parked) > 0, "states were parked"
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), module.parameters(), strict=True))
    for a, b in zip(saved["optimizer_states"][0]["state"].values(), same["optimizer_states"][0]["state"].values(), strict=True):
        assert torch.equal(a["exp_avg"], b["exp_avg"])


def test_only_the_state_on_the_device_is_parked():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones(3)
    optimizer.step()
    assert [len(t) for t in optimizer_tensors([optimizer], "cpu")] == [3, 3], "the step counter stays"
    assert optimizer_tensors([optimizer], "cuda") == []


def test_an_offload_that_does_not_exist(runs):
    with pytest.raises(ConfigError, match=r"^model\.init_args\.offload: "):
        runs.module(offload="weights")

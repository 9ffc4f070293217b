import io
import random

import numpy as np
import torch

from aer_lightning.callbacks.random_state import RandomState, capture, restore


def draw():
    return random.random(), random.gauss(0, 1), float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))


def test_generators_continue_where_they_were():
    random.gauss(0, 1)
    np.random.randn()  # each leaves half of a pair of normal numbers behind
    state = capture()
    expected = draw()
    draw()
    restore(state)
    assert draw() == expected


def test_state_is_plain_and_is_restored_when_training_starts():
    callback = RandomState()
    buffer = io.BytesIO()
    torch.save(callback.state_dict(), buffer)
    expected = draw()
    buffer.seek(0)
    callback.load_state_dict(torch.load(buffer, weights_only=True))
    draw()

    class Trainer:
        world_size, global_rank = 1, 0

    callback.on_train_start(Trainer(), None)
    assert draw() == expected
    assert draw() != expected
    before = draw()
    callback.on_train_start(Trainer(), None)
    assert draw() != before, "a second start restores nothing"

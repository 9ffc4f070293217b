from aer_lightning.data.loader import RolloutLoader


class Rollout:
    def __init__(self, index, size=2):
        self.index, self.size, self.position = index, size, 0

    @property
    def finished(self):
        return self.position >= self.size

    def next_batch(self):
        self.position += 1
        return self.index, self.position


class Data:
    """What a loader needs of a datamodule, and a diary of when rollouts were collected."""

    rollouts_per_epoch = 2

    class sizes:
        steps = 2

    def __init__(self, rollouts=0, rollout=None):
        self.rollouts, self.rollout, self.diary = rollouts, rollout, []

    def collect(self):
        self.diary.append("collect")
        return Rollout(self.rollouts)

    def finish(self):
        self.rollout, self.rollouts = None, self.rollouts + 1


def test_it_is_sized_so_that_lightning_does_not_prefetch():
    assert len(RolloutLoader(Data())) == 4


def test_a_rollout_is_collected_when_its_first_batch_is_asked_for():
    data = Data()
    for batch in RolloutLoader(data):
        data.diary.append(batch)
    assert data.diary == ["collect", (0, 1), (0, 2), "collect", (1, 1), (1, 2)]
    assert list(RolloutLoader(data)) == [(2, 1), (2, 2), (3, 1), (3, 2)], "the next epoch goes on"


def test_an_epoch_goes_on_where_it_was_interrupted():
    halfway = Rollout(0)
    halfway.next_batch()
    assert list(RolloutLoader(Data(rollouts=0, rollout=halfway))) == [(0, 2), (1, 1), (1, 2)]
    assert list(RolloutLoader(Data(rollouts=1))) == [(1, 1), (1, 2)]

from torch.utils.tensorboard import SummaryWriter

from aer_lightning.checkpoints.logs import cut_back, cut_back_events, sizes, start_over


def test_files_end_where_they_did(tmp_path):
    (tmp_path / "samples.jsonl").write_text("one\n")
    kept = sizes(tmp_path)
    assert kept == {"samples.jsonl": 4}
    (tmp_path / "samples.jsonl").write_text("one\ntwo\nhal")
    (tmp_path / "evaluation.jsonl").write_text("later\n")
    assert cut_back(tmp_path, kept) == []
    assert (tmp_path / "samples.jsonl").read_text() == "one\n" and not (tmp_path / "evaluation.jsonl").exists()


def test_missing_rows_are_said(tmp_path):
    (tmp_path / "samples.jsonl").write_text("one")
    (problem, gone) = cut_back(tmp_path, {"samples.jsonl": 4, "evaluation.jsonl": 9})
    assert "samples.jsonl has 3 bytes and had 4" in problem and "evaluation.jsonl is gone" in gone


def events(folder):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = []
    for path in sorted(folder.glob("events.*")):
        found += [(e.step, v.tag) for e in EventFileLoader(str(path)).Load() for v in e.summary.value]
    return found


def written(folder, rows):
    writer = SummaryWriter(str(folder))
    for step, tag in rows:
        writer.add_scalar(tag, 1.0, step)
    writer.close()


def test_tensorboard_keeps_what_was_logged_up_to_the_checkpoint(tmp_path):
    rows = [(0, "val/a"), (0, "train/b"), (1, "train/b"), (1, "val/a"), (2, "train/b")]
    written(tmp_path, rows)
    assert cut_back_events(tmp_path, 2, ["train/b", "epoch"], 1)
    assert events(tmp_path) == rows[:3], "the evaluation after the checkpoint is done again"


def test_tensorboard_lacks_the_step_of_the_checkpoint(tmp_path):
    written(tmp_path, [(0, "val/a"), (0, "train/b")])
    assert not cut_back_events(tmp_path, 2, ["train/b"], 1), "whoever cuts has to log it"
    assert cut_back_events(tmp_path, 1, ["train/b"], 0)
    assert events(tmp_path) == [(0, "val/a"), (0, "train/b")], "the evaluation of the initial policy stays"


def test_tensorboard_inside_a_rollout_keeps_the_rollout_before(tmp_path):
    """Of rollouts of two steps, the checkpoint is of the third step: nothing was logged at it, and nothing has to be logged again."""
    rows = [(0, "val/a"), (1, "train/b"), (1, "val/a")]
    written(tmp_path, [*rows, (3, "train/b")])
    assert cut_back_events(tmp_path, 3, ["train/b"], 1)
    assert events(tmp_path) == rows


def test_starting_over_leaves_nothing(tmp_path):
    written(tmp_path, [(0, "a")])
    (tmp_path / "samples.jsonl").write_text("x")
    start_over(tmp_path)
    assert list(tmp_path.iterdir()) == []

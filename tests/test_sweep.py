import json
import threading

import pytest
import yaml

from aer_lightning.errors import UserError
from aer_lightning.study.configuration import look_up
from aer_lightning.sweep import OnDevices, main, read_sweep

PLAN = {
    "configs": ["configs/aer.yaml", "configs/strategy/ddp.yaml"],
    "set": {"trainer.max_epochs": 1},
    "grid": {"EntropyAnchor.tau": [0.4, 0.65], "data.init_args.temperature": [0.8, 1.0]},
    "seeds": [1, 2],
}


@pytest.fixture
def plan(tmp_path):
    def write(**changes):
        path = tmp_path / "plan.yaml"
        path.write_text(json.dumps({**PLAN, **changes}))
        return str(path)

    return write


def test_every_combination_with_every_seed(plan):
    runs = read_sweep(plan()).runs()
    assert len(runs) == 8 and len({run.folder for run in runs}) == 8
    last = runs[-1]
    assert last.name == "tau=0.65,temperature=1.0 seed2" and last.config["seed_everything"] == 2
    assert last.config["trainer"]["callbacks"][0]["init_args"]["tau"] == 0.65 and last.config["trainer"]["max_epochs"] == 1
    assert look_up(last.config, "data.init_args.temperature") == 1.0 and "strategy" in last.config["trainer"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gird": {}}, "gird"),
        ({"configs": []}, "configs: give a list"),
        ({"grid": {"a.b": 3}}, "grid.a.b"),
        ({"grid": {"a.b": [1, 1]}}, "different values"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"grid": {"NoCallback.x": [1, 2]}}, "no NoCallback"),
        ({"configs": ["nowhere.yaml"]}, "nowhere.yaml"),
    ],
)
def test_plans_that_cannot_be(plan, changes, words):
    with pytest.raises(UserError, match=words):
        read_sweep(plan(**changes)).runs()


def test_it_goes_on_where_it_stopped(plan, tmp_path, capsys):
    started = []

    def launch(arguments, log):
        folder = tmp_path / "runs" / yaml.safe_load(open(arguments[2]).read())["name"] / arguments[2].split("seed")[-1][:1]  # noqa: SIM115
        started.append(str(folder))
        if len(started) == 3:
            log.write_text("error: no memory\n")
            return 2
        run = arguments[arguments.index("--run_dir") + 1]
        from pathlib import Path

        Path(run).mkdir(parents=True)
        (Path(run) / "summary.json").write_text("{}")
        return 0

    options = [plan(), "--runs", str(tmp_path / "runs"), "--jobs", "1"]
    with pytest.raises(UserError, match=r"1 runs failed.*no memory"):
        main(options, launch)
    assert len(started) == 8
    assert main(options, launch) == 0 and len(started) == 9, "finished runs are kept"
    assert "compare" in capsys.readouterr().out
    with pytest.raises(UserError, match="another plan"):
        main([plan(set={"trainer.max_epochs": 2}), "--runs", str(tmp_path / "runs")], launch)


def test_dry_run(plan, capsys):
    assert main([plan(), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "tau=0.4,temperature=0.8 seed1"


def test_one_process_per_device(tmp_path):
    seen, lock = [], threading.Lock()

    def processes(arguments, log, environment=None):
        with lock:
            seen.append(environment)
        barrier.wait(5)
        return 0

    barrier = threading.Barrier(2)
    launch = OnDevices(["3", "5"], processes)
    threads = [threading.Thread(target=launch, args=([], tmp_path)) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(e["CUDA_VISIBLE_DEVICES"] for e in seen) == ["3", "5"]


def test_the_examples():
    from pathlib import Path

    root = Path(__file__).parents[1] / "examples"
    assert len(read_sweep(root / "sweep.yaml").runs()) == 8
    wandb = yaml.safe_load((root / "wandb_sweep.yaml").read_text())
    assert wandb["program"] == "aer_lightning" and "${args}" in wandb["command"]

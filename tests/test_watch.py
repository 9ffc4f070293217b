import json
import threading
import urllib.error
import urllib.request

import pytest

from aer_lightning.errors import ConfigError
from aer_lightning.watch import serve


@pytest.fixture
def address(tmp_path):
    (tmp_path / "run").mkdir()
    server = serve(tmp_path / "run", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
        return answer.read().decode(), answer.headers


def test_a_run_from_its_start_on(address, tmp_path):
    page, headers = get(address)
    assert 'data-live="1"' in page and "default-src 'none'" in headers["Content-Security-Policy"]
    assert json.loads(get(f"{address}/data.json")[0])["status"].startswith("waiting")
    run = tmp_path / "run"
    (run / "config.yaml").write_text("name: mine\n")
    (run / "metrics.csv").write_text("epoch,step,rollout/index,rollout/reward\n0,0,0,0.25\n0,1,1,0.5\n")
    data = json.loads(get(f"{address}/data.json")[0])
    assert data["status"] == "2 rollouts, running" and data["panels"][0]["series"][0]["points"] == [[1, 0.25], [2, 0.5]]
    (run / "summary.json").write_text("{}")
    assert json.loads(get(f"{address}/data.json")[0])["status"] == "2 rollouts, finished"


def test_only_this_machine_is_answered(address):
    for path, host, status in (("/", "evil.example:80", 403), ("/../config.yaml", None, 404)):
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(address + path, **({"Host": host} if host else {}))
        assert caught.value.code == status
    assert address.startswith("http://127.0.0.1")


def test_no_such_folder(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        serve(tmp_path / "nowhere", 0)

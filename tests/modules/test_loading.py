import json

import pytest

from aer_lightning.errors import DataError
from aer_lightning.modules.loading import check_model_folder, local_folder


def test_folder_checks(tmp_path, random_model):
    check_model_folder(str(random_model))
    check_model_folder("Qwen/Qwen3-0.6B")  # a hub name is looked at when it is loaded
    with pytest.raises(DataError, match="no folder /nowhere"):
        check_model_folder("/nowhere")
    with pytest.raises(DataError, match=r"config\.json"):
        check_model_folder(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        check_model_folder(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(DataError, match="weights"):
        check_model_folder(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match="tokenizer"):
        check_model_folder(str(tmp_path))


def test_a_name_that_the_hub_does_not_give(random_model):
    assert local_folder(str(random_model)) == random_model
    with pytest.raises(DataError, match=r"^model\.init_args\.pretrained: nobody/nothing is neither a folder"):
        local_folder("nobody/nothing")

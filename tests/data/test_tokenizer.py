import pytest

from aer_lightning.data.tokenizer import load_tokenizer
from aer_lightning.errors import DataError


def test_a_model_folder_gives_its_tokenizer(random_model):
    tokenizer = load_tokenizer(str(random_model))
    assert tokenizer.decode(tokenizer("1 2=3:")["input_ids"]) == "1 2=3:"


def test_a_folder_without_one_is_named(tmp_path):
    with pytest.raises(DataError, match=rf"^model\.init_args\.pretrained: no tokenizer in {tmp_path}"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_that_can_neither_pad_nor_end_is_refused(random_model, tmp_path):
    tokenizer = load_tokenizer(str(random_model))
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="neither a padding nor an end token"):
        load_tokenizer(str(tmp_path))

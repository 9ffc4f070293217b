import subprocess
import sys

import pytest
from jsonargparse import ArgumentParser

from aer_lightning.data.engines import TransformersEngine, VLLMEngine
from aer_lightning.data.engines.base import Engine


def test_importing_the_engines_imports_nothing_heavy():
    program = (
        "import sys\n"
        "from aer_lightning.data.engines import TransformersEngine, VLLMEngine\n"
        "TransformersEngine(max_batch_size=2)\n"
        "print([name for name in ('torch', 'transformers', 'vllm', 'numpy') if name in sys.modules])\n"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(("engine", "option"), [(TransformersEngine, "max_batch_size"), (VLLMEngine, "max_num_seqs")])
@pytest.mark.parametrize("name", ["{0.__name__}", "aer_lightning.data.engines.{0.__name__}"])
def test_the_command_line_knows_an_engine_by_its_name(engine, option, name):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--engine", type=Engine)
    parsed = parser.parse_args([f"--engine={name.format(engine)}", f"--engine.{option}=3"]).engine
    assert parsed.class_path in (f"aer_lightning.{engine.__name__}", f"aer_lightning.data.engines.{engine.__name__}")
    assert parsed.init_args[option] == 3

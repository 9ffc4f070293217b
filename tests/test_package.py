"""``import aer_lightning``: the main names, nothing heavy before they are used."""

import subprocess
import sys

import pytest

import aer_lightning


def test_the_main_names():
    for name in aer_lightning.__all__:
        assert getattr(aer_lightning, name).__module__.startswith("aer_lightning.")
    assert set(aer_lightning.__all__) == set(aer_lightning._MODULE) <= set(dir(aer_lightning))
    with pytest.raises(AttributeError, match="no attribute 'Policy'"):
        aer_lightning.Policy  # noqa: B018


def test_importing_it_is_light():
    code = "import sys, aer_lightning; print([m for m in ('torch', 'lightning', 'sympy') if m in sys.modules]); aer_lightning.PolicyModule"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"

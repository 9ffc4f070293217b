"""Adds configs/ to the package as aer_lightning/configs, which pyproject.toml cannot say; everything else is there."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["aer_lightning*"]), "aer_lightning.configs"],
    package_dir={"aer_lightning.configs": "configs"},
    package_data={"aer_lightning.configs": ["**/*.yaml"], "aer_lightning": ["assets/**/*", "py.typed", "*.pyi", "reporting/page.js"]},
)

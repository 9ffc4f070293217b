"""What every run reports, for those who build their own ``Trainer``."""

from __future__ import annotations

import lightning.pytorch as pl

from aer_lightning.callbacks.by_label import LabelFigures
from aer_lightning.callbacks.curves import Curves
from aer_lightning.callbacks.evaluation_log import EvaluationLog
from aer_lightning.callbacks.evaluation_report import EvaluationReport
from aer_lightning.callbacks.export import HFExport
from aer_lightning.callbacks.history import MetricsHistory
from aer_lightning.callbacks.initial_validation import InitialValidation
from aer_lightning.callbacks.predictions import PredictionLog
from aer_lightning.callbacks.progress import RolloutProgressBar
from aer_lightning.callbacks.random_state import RandomState
from aer_lightning.callbacks.samples import SampleLog
from aer_lightning.callbacks.summary import Summary

REPORTS: dict[str, type[pl.Callback]] = {
    "random_state": RandomState,
    "by_label": LabelFigures,
    "history": MetricsHistory,  # before those that read its file
    "progress": RolloutProgressBar,
    "initial_validation": InitialValidation,
    "samples": SampleLog,
    "evaluation_log": EvaluationLog,
    "evaluation_report": EvaluationReport,
    "predictions": PredictionLog,
    "curves": Curves,
    "export": HFExport,
    "summary": Summary,
}


def reports() -> list[pl.Callback]:
    """The callbacks that the command line gives every run, with their defaults; they write into ``trainer.default_root_dir``.

    They come after the entropy stack in ``Trainer(callbacks=[...])``.
    """
    return [kind() for kind in REPORTS.values()]

"""``curves.png``: what a run looks like, while it runs and at its end."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn

from aer_lightning.callbacks.run_files import logged_metrics, run_folder
from aer_lightning.errors import ConfigError


class Curves(pl.Callback):
    """Draws ``<run folder>/curves.png`` from the run's ``metrics.csv``: reward, entropy with H_0 and H*, alpha, response length, pass@k.

    Args:
        every: draw after every so many validations, and at the end; 0 draws at the end alone.
        enabled: whether to draw at all.

    Raises:
        ConfigError: ``every`` is negative.
    """

    def __init__(self, every: int = 1, enabled: bool = True) -> None:
        if every < 0:
            raise ConfigError(f"curves.every: must be at least 1, or 0 for one picture at the end, got {every}")
        self.every, self.enabled = every, enabled
        self._validations = 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw after a validation between rollouts."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or not trainer.global_step:
            return
        self._validations += 1
        if self.every and self._validations % self.every == 0:
            self.draw(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the whole run."""
        self.draw(trainer)

    def draw(self, trainer: pl.Trainer) -> None:
        """Draw what was logged so far; nothing without a CSV logger. Rank zero."""
        if not self.enabled or not trainer.is_global_zero:
            return
        run = logged_metrics(trainer)
        if not len(run) and not run.evaluations:
            return
        from aer_lightning.reporting.curves import draw_curves
        from aer_lightning.reporting.style import write_atomically

        folder = run_folder(trainer)
        title = "/".join(folder.absolute().parts[-2:])
        picture = draw_curves(run, f"{title} · {len(run)} rollouts")
        try:
            write_atomically(folder / "curves.png", picture)
        except OSError as error:  # a picture is not worth a run
            rank_zero_warn(f"{folder / 'curves.png'} cannot be written ({error.strerror})")

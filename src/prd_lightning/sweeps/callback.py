"""What happens when the last job of a multirun has ended, whatever launcher ran it: the summary is written."""

import logging
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from prd_lightning.errors import PRDError
from prd_lightning.sweeps.command import write_summary
from prd_lightning.sweeps.runs import find_runs
from prd_lightning.sweeps.summary import Summary, summarize

logger = logging.getLogger(__name__)


class SummaryCallback(Callback):
    """Tables and plot of all runs under the sweep's root (``hydra.callbacks.summary`` in ``conf/train.yaml``).

    Attributes:
        latest: the summary of the multirun that ended last in this process; Hydra returns nothing to the caller.
    """

    latest: ClassVar[Summary | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Forgets the earlier multirun."""
        SummaryCallback.latest = None

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Writes the summary."""
        root = Path(config.hydra.sweep.dir).resolve()
        try:
            SummaryCallback.latest = summarize(find_runs(root))
            write_summary(SummaryCallback.latest, root, root)
        except PRDError as error:
            logger.error("the sweep cannot be summarized: %s", error)

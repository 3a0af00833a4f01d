"""Filters that keep advertisements of Lightning, and warnings without meaning here, off the terminal."""

import logging
import warnings

NOISE = (
    "litlogger",
    "litmodels",
    "GPU available:",
    "Automatic Mixed Precision (AMP)",
    "TPU available:",
    "HPU available:",
    "`Trainer.fit` stopped:",
    "Detected KeyboardInterrupt",
    "Restoring states from the checkpoint",
    "Restored all states from the checkpoint",
    "Received SIGTERM",
    "You are using the plain ModelCheckpoint callback",
    "All distributed processes registered",
    "distributed_backend=",
    "Starting with ",
    "Initializing distributed",
    "----------",
    "100% of the batches will be used",
)


def silence() -> None:
    """Filter log lines and warnings of this process; calling it twice is harmless."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        for logger in [logging.getLogger(name), *_children(name)]:
            if not any(isinstance(f, _Noise) for f in logger.filters):
                logger.addFilter(_Noise())
        for handler in logging.getLogger(name).handlers:
            if not any(isinstance(f, _Noise) for f in handler.filters):
                handler.addFilter(_Noise())
    for pattern in (
        ".*isinstance\\(treespec, LeafSpec\\).*",
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*is smaller than the logging interval.*",
        ".*resuming from a checkpoint that ended before the epoch ended.*",
        ".*Total length of .* across ranks is zero.*",
        ".*srun. command is available.*",
        ".*It is recommended to use `self.log.*sync_dist=True.*",
        ".*torch_dist_sharded_.*",
    ):
        warnings.filterwarnings("ignore", message=pattern)


class _Noise(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return bool(message.strip()) and not any(noise in message for noise in NOISE)


def _children(name: str) -> list[logging.Logger]:
    loggers = logging.Logger.manager.loggerDict.items()
    return [logger for key, logger in loggers if key.startswith(f"{name}.") and isinstance(logger, logging.Logger)]

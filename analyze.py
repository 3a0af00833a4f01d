"""Answers a question over finished runs: `python analyze.py --help`.

Nothing heavy is imported before `main` runs, so that help and messages come at once.
"""

if __name__ == "__main__":
    from callbacks import signals

    signals.take_over()  # before the first import that takes time

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import settings
from launch.cli.command import run
from launch.cli.messages import report
from launch.memory import keep_freed_memory
from studies.common.results import check_folder, show_results, write_results

ROOT = Path(__file__).resolve().parent

settings.register()


@hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name="analyze")
def main(cfg: DictConfig) -> None:
    """One study of the command line; turns how it ended into an exit code."""
    try:
        analyze(cfg)
    except Exception as error:  # here, for Hydra would print a line of its own
        sys.exit(report(error, HydraConfig.get().overrides.task, "analyze")[0])


def analyze(cfg: DictConfig) -> Path:
    """Runs the study that `cfg` describes, and shows what it found.

    Returns:
        The folder of the results.

    Raises:
        ValueError: it cannot be answered; nothing was written.
    """
    keep_freed_memory()
    settings.validate_analysis(cfg)
    cfg.models, cfg.sizes = settings.models_of(cfg), None
    folder = Path(cfg.results_dir) / settings.study_name(cfg)
    check_folder(folder, cfg)
    results = settings.instantiate(cfg.study)(cfg)
    write_results(results, folder, cfg)
    show_results(results, folder)
    return folder


if __name__ == "__main__":
    sys.exit(run(main, "analyze"))

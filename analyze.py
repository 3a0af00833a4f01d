"""Answer a question over finished runs: `python analyze.py --help`.

Nothing heavy is imported before `main` runs, so that help and messages appear at once.
"""

if __name__ == "__main__":
    from callbacks import signals
    from launch.cli import starting

    signals.take_over()  # before the first import that takes time
    starting.begin()

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import settings
from callbacks import signals
from launch.cli import starting
from launch.cli.command import run
from launch.cli.consent import named
from launch.cli.messages import report
from launch.cli.rehearsal import absent, build_measures, build_study, taken_back
from launch.cli.validate import validate
from launch.run.links import refuse_links
from launch.run.lock import locked
from studies.common.results import check_folder, show_results, write_results
from trusted import naming

ROOT = Path(__file__).resolve().parent

settings.register()


@hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name="analyze")
def main(cfg: DictConfig) -> None:
    """Run the study of the command line and exit with its code."""
    try:
        with naming(named(cfg)), signals.restored():
            analyze(cfg)
    except Exception as error:  # caught here, because Hydra would print a line of its own
        sys.exit(report(error, HydraConfig.get().overrides.task, "analyze")[0])


def analyze(cfg: DictConfig) -> Path:
    """Run the study that `cfg` describes and show its results.

    Returns:
        The folder of the results.

    Raises:
        ValueError: The question cannot be answered; nothing was written.
    """
    from launch.machine import keep_freed_memory

    keep_freed_memory()
    validate(cfg, "analyze")
    cfg.models, cfg.sizes = settings.models_of(cfg), None
    folder = Path(cfg.results_dir) / settings.study_name(cfg)
    refuse_links(folder)
    created = absent(folder)
    with locked(folder):
        check_folder(folder, cfg)
        if cfg.device not in ("auto", "cpu"):
            from launch.machine import check_device

            check_device("device", cfg.device)
        if not cfg.models:  # the study trains first: find mistakes before that
            build_measures(cfg)
        study = build_study(cfg)
        starting.imported()
        with taken_back(created, _holds_no_results):
            results = study(cfg)
        write_results(results, folder, cfg)
    show_results(results, folder, HydraConfig.get().overrides.task if HydraConfig.initialized() else ())
    return folder


def _holds_no_results(folder: Path) -> bool:
    return {path.name for path in folder.iterdir()} <= {"config.yaml", ".lock"}


if __name__ == "__main__":
    starting.clear()
    sys.exit(run(main, "analyze"))

"""The measure that a study tests, chosen before there are results; every other one is exploratory."""

from omegaconf import DictConfig

from studies.common.inputs import measures_of


def check_primary(cfg: DictConfig, primary: str) -> None:
    """Check that the primary measure is among those that the config lists.

    Raises:
        ValueError: It is not.
    """
    labels = [measure.label for measure in measures_of(cfg)]
    if primary not in labels:
        raise ValueError(
            f"study.primary_measure={primary}: expected one of the measures of this command: {', '.join(labels)}; add "
            f"it to measures, or type study.primary_measure={labels[0] if labels else 'NAME'}"
        )

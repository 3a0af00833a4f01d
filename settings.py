"""The one place that turns a config into objects."""

from typing import Any

from omegaconf import DictConfig


def instantiate(config: dict[str, Any] | DictConfig, *args: Any, **kwargs: Any) -> Any:
    """Builds the object that `config["_target_"]` names; keyword arguments win over the config's.

    Raises:
        ValueError: as the constructor raised it, not wrapped in Hydra's own exception.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as hydra_instantiate

    try:
        return hydra_instantiate(config, *args, **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise

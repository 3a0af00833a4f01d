"""The dependencies of the application, for those who install its clone: `pip install -e .`."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ApplicationDependencies(BuildHookInterface):
    """Adds the extra `app` to an editable install; the wheel proper is the instrument alone."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds."""
        if version == "editable":
            build_data["dependencies"] += self.metadata.core.optional_dependencies["app"]

"""The dependencies of the application, for an editable install of a clone: `pip install -e .`."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ApplicationDependencies(BuildHookInterface):
    """A build hook that adds the extra `app` to an editable install; the wheel holds the instrument alone."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the dependencies; hatchling calls this before it builds."""
        if version == "editable":
            build_data["dependencies"] += self.metadata.core.optional_dependencies["app"]

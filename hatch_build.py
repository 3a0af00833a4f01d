"""Add the dependencies of the application to an editable install, `pip install -e .`."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ApplicationDependencies(BuildHookInterface):
    """Build hook that adds the extra `app` to an editable install; the wheel itself is the instrument alone."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the extra; hatchling calls this before it builds."""
        if version == "editable":
            build_data["dependencies"] += self.metadata.core.optional_dependencies["app"]

"""What a user chooses about the figures of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from dissimilarity.figures.figure import Format
from dissimilarity.figures.maps import Dark, Scale


@dataclass(frozen=True)
class FigureOptions:
    """Files and colors of figures.

    Attributes:
        formats: any of `png`, `pdf` and `svg`.
        scale: as for `heatmap_figure`.
        dark: as for `heatmap_figure`.
    """

    formats: Sequence[Format] = ("png",)
    scale: Scale = "null"
    dark: Dark = "same"


PNG = FigureOptions()


def as_figure_options(options: FigureOptions | Mapping[str, Any]) -> FigureOptions:
    """Return options, which may be given by name; None stands for the default.

    Raises:
        ValueError: neither, or an unknown name.

    Examples:
        >>> as_figure_options({"formats": ["svg"], "scale": None})
        FigureOptions(formats=['svg'], scale='null', dark='same')
    """
    if isinstance(options, FigureOptions):
        return options
    known = [field.name for field in fields(FigureOptions)]
    if not isinstance(options, Mapping) or not options.keys() <= set(known):
        raise ValueError(f"expected figures as a mapping of some of {', '.join(known)}, found {options!r}")
    return FigureOptions(**{name: value for name, value in options.items() if value is not None})

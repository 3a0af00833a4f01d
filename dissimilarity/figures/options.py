"""What a user chooses about the figures of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

from dissimilarity.figures.figure import Format
from dissimilarity.figures.maps import Dark, Scale
from dissimilarity.probe.arguments import choice, shown


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
        ValueError: neither, or an unknown name or value.

    Examples:
        >>> as_figure_options({"formats": ["svg"], "scale": None})
        FigureOptions(formats=['svg'], scale='null', dark='same')
    """
    if isinstance(options, FigureOptions):
        return _checked(options)
    known = [field.name for field in fields(FigureOptions)]
    if not isinstance(options, Mapping) or not options.keys() <= set(known):
        raise ValueError(f"expected figures as a mapping of some of {', '.join(known)}, found {shown(options)}")
    return _checked(FigureOptions(**{name: value for name, value in options.items() if value is not None}))


def check_formats(name: str, formats: Any) -> None:
    """Raise ValueError unless an argument lists formats of figures."""
    known, is_list = get_args(Format), isinstance(formats, Sequence) and not isinstance(formats, str)
    if not is_list or not formats or not all(suffix in known for suffix in formats):
        raise ValueError(f"expected {name} as a list of some of {', '.join(known)}, found {shown(formats)}")


def _checked(options: FigureOptions) -> FigureOptions:
    check_formats("figures.formats", options.formats)
    choice("figures.scale", options.scale, get_args(Scale))
    choice("figures.dark", options.dark, get_args(Dark))
    return options

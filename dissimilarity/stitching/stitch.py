"""`Stitch`: a front model up to a site, a map, and a back model from a site on."""

from typing import Literal

from jaxtyping import Int
from torch import Tensor, nn

from dissimilarity.stitching.direct import check_sites, fit_direct
from dissimilarity.stitching.losses import check_positions, check_tokens, check_vocabularies
from dissimilarity.stitching.maps import Fitted, Kind
from dissimilarity.stitching.penalty import Penalty, penalties
from dissimilarity.stitching.task import MapStart, Progress, Recipe, fit_task


class Stitch:
    """The back model from `back_site` on, after a map, after the front model up to `site`: g_{>m} phi f_{<=l}.

    Only the map phi is fitted. Neither model is changed.

    Args:
        front: the front model, of a known architecture (see `capture.sites`), called as `model(tokens)`.
        back: the back model. Widths and depths may differ from the front model's, but not the tokenizer.
        site: any site of the front model.
        back_site: where the back model is entered, one of its `enterable_sites`; by default the front's site.
        kind: `identity`, `scale_shift`, `orthogonal`, `low_rank`, `affine` or `affine_ln`; see `maps`.
        fit: `direct`: closed form, the least squared error between the map's output and the back model's own activation
            (Csiszarik et al. 2021). `task`: gradient descent on the back model's next-token loss (Bansal et al. 2021),
            which may also find directions that the back model's own activations never take (Balogh and Jelasity 2024).
        rank: rank of `low_rank`.
        start: where `task` starts: at the direct stitch, the identity, or random weights.
        recipe: how `task` trains; by default `Recipe()`.

    Attributes:
        fitted: after `fit`, the map and how it was fitted.

    Raises:
        ValueError: a site that the front model lacks or at which the back model cannot be entered.

    Examples:
        >>> import torch
        >>> from collections import OrderedDict
        >>> blocks = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        >>> model = nn.Sequential(OrderedDict(embed=nn.Embedding(7, 4), blocks=blocks, unembed=nn.Linear(4, 7)))
        >>> tokens = torch.randint(7, (20, 6), generator=torch.Generator().manual_seed(0))
        >>> stitch = Stitch(model, model, "blocks.0.resid_post", kind="identity").fit(tokens)
        >>> penalty = stitch.penalty(tokens)
        >>> penalty.value, penalty.loss_stitched == penalty.loss_back, penalty.sequences
        (0.0, True, 20)
    """

    def __init__(
        self,
        front: nn.Module,
        back: nn.Module,
        site: str,
        back_site: str | None = None,
        kind: Kind = "affine",
        fit: Literal["direct", "task"] = "direct",
        rank: int | None = None,
        start: MapStart = "direct",
        recipe: Recipe | None = None,
    ) -> None:
        self.front, self.back = front, back
        self.site, self.back_site = site, site if back_site is None else back_site
        self.kind: Kind = kind
        self.how: Literal["direct", "task"] = fit
        self.start: MapStart = start
        self.rank, self.recipe = rank, recipe or Recipe()
        self.fitted: Fitted | None = None
        if fit not in ("direct", "task"):
            raise ValueError(f"expected fit direct or task, found {fit!r}")
        check_sites(front, back, [self.pair])

    @property
    def pair(self) -> tuple[str, str]:
        """The pair (front site, back site)."""
        return self.site, self.back_site

    def fit(self, tokens: Int[Tensor, "sequences pos"], progress: Progress | None = None) -> "Stitch":
        """Fit the map on tokens.

        Args:
            tokens: at least 10 sequences, which both models read. Every fifth selects the ridge or the step to stop at.
            progress: called with (step, held-out loss) while a task stitch trains.

        Returns:
            the stitch itself.

        Raises:
            ValueError: too few tokens, unequal vocabularies, or widths that the kind cannot connect.
        """
        check_tokens(tokens, 1, "tokens to fit on")
        check_vocabularies(self.front, self.back, tokens)
        check_positions(self.front, [self.site], tokens)
        if self.how == "direct":
            self.fitted = fit_direct(self.front, self.back, tokens, [self.pair], self.kind, self.rank)[self.pair]
        else:
            self.fitted = fit_task(
                self.front, self.back, tokens, self.pair, self.kind, self.rank, self.start, self.recipe, progress
            )
        return self

    def penalty(self, held_out: Int[Tensor, "sequences pos"], bytes_per_token: float | None = None) -> Penalty:
        """Return the penalty of the stitch on tokens that it was not fitted on.

        Args:
            held_out: at least 2 sequences.
            bytes_per_token: mean over their text, for bits per byte.

        Raises:
            ValueError: the stitch is not fitted yet, or too few tokens.
        """
        if self.fitted is None:
            raise ValueError("this stitch has no map yet: call .fit(tokens) first")
        return penalties(self.front, self.back, {self.pair: self.fitted}, held_out, bytes_per_token)[self.pair]

    def between(self, front: nn.Module, back: nn.Module, site: str, back_site: str) -> "Stitch":
        """Return an unfitted stitch of the same kind, fit and budget between other models or sites."""
        return Stitch(front, back, site, back_site, self.kind, self.how, self.rank, self.start, self.recipe)

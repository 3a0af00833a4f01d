"""`Stitch`: a front model up to a site, a map, and a back model from a site on."""

from typing import Literal

from jaxtyping import Int
from torch import Tensor, nn

from dissimilarity.stitching.direct import check_sites, fit_direct
from dissimilarity.stitching.losses import check_tokens, check_vocabularies
from dissimilarity.stitching.maps import Fitted, Kind
from dissimilarity.stitching.penalty import Penalty, penalties
from dissimilarity.stitching.task import Progress, Recipe, Start, fit_task


class Stitch:
    """back from `back_site` on, after the map, after front up to `site`: g_{>m} phi f_{<=l}, only phi is fitted.

    stitch = Stitch(front, back, "blocks.1.resid_post", kind="affine", fit="direct").fit(tokens)
    stitch.penalty(held_out)  # value, stderr, loss_front, loss_back, loss_stitched, nats per token

    Args:
        front, back: modules of an architecture that `sites` knows, called as `model(tokens)`; widths and depths may
            differ, the tokenizer may not. Neither is changed.
        site: any site of the front model.
        back_site: where the back model is entered, one of its `enterable_sites`; by default the front's.
        kind: `identity`, `scale_shift`, `orthogonal`, `low_rank`, `affine` or `affine_ln`; see `maps`.
        fit: `direct`: closed form, the least squared error between the map's output and the back model's own
            activation (Csiszarik et al. 2021); `task`: gradient on the back model's next-token loss (Bansal et al.
            2021), which may also find ways that the back model's own activations never take (Balogh and Jelasity 2024).
        rank: of `low_rank`.
        start: where `task` starts: at the direct stitch, the identity, or random weights.
        recipe: how `task` trains; by default `Recipe()`.

    Attributes:
        fitted: after `fit`, the map and how it came about.

    Raises:
        ValueError: a site that the front model lacks or at which the back model cannot be entered.
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
        start: Start = "direct",
        recipe: Recipe | None = None,
    ) -> None:
        self.front, self.back = front, back
        self.site, self.back_site = site, site if back_site is None else back_site
        self.kind: Kind = kind
        self.how: Literal["direct", "task"] = fit
        self.start: Start = start
        self.rank, self.recipe = rank, recipe or Recipe()
        self.fitted: Fitted | None = None
        if fit not in ("direct", "task"):
            raise ValueError(f"expected fit direct or task, found {fit!r}")
        check_sites(front, back, [self.pair])

    @property
    def pair(self) -> tuple[str, str]:
        """(site in front, site behind)."""
        return self.site, self.back_site

    def fit(self, tokens: Int[Tensor, "sequences pos"], progress: Progress | None = None) -> "Stitch":
        """Fit the map on tokens, at least 10 sequences; every fifth chooses the ridge or the step to stop at.

        Args:
            tokens: which both models read.
            progress: called with (step, held-out loss) while a task stitch trains.

        Returns:
            itself.

        Raises:
            ValueError: too few tokens, unequal vocabularies, widths that the kind cannot join.
        """
        check_tokens(tokens, 1, "tokens to fit on")
        check_vocabularies(self.front, self.back, tokens)
        if self.how == "direct":
            self.fitted = fit_direct(self.front, self.back, tokens, [self.pair], self.kind, self.rank)[self.pair]
        else:
            self.fitted = fit_task(
                self.front, self.back, tokens, self.pair, self.kind, self.rank, self.start, self.recipe, progress
            )
        return self

    def penalty(self, held_out: Int[Tensor, "sequences pos"], bytes_per_token: float | None = None) -> Penalty:
        """What the stitch costs on tokens that it was not fitted on, at least 2 sequences.

        Args:
            held_out: the tokens.
            bytes_per_token: of their text, for bits per byte.

        Raises:
            ValueError: nothing fitted yet, too few tokens.
        """
        if self.fitted is None:
            raise ValueError("this stitch has no map yet: call .fit(tokens) first")
        return penalties(self.front, self.back, {self.pair: self.fitted}, held_out, bytes_per_token)[self.pair]

    def between(self, front: nn.Module, back: nn.Module, site: str, back_site: str) -> "Stitch":
        """A stitch of the same kind, fit and budget between other models or sites, not fitted yet."""
        return Stitch(front, back, site, back_site, self.kind, self.how, self.rank, self.start, self.recipe)

"""Rotary positions (Su et al. 2021, arXiv 2104.09864) in the layout of GPT-NeoX."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Rotary(nn.Module):
    """A rotation of the first `d_rotary` entries of every query and key, by an angle that grows with position.

    Entries i and i + d_rotary/2 form a plane (the layout of GPT-NeoX, not the interleaved one of the paper), which is
    rotated at position t by t * base^(-2i/d_rotary) radians. The other entries stay as they are.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, d_rotary: int, n_ctx: int, base: float = 10_000.0) -> None:
        super().__init__()
        assert d_rotary % 2 == 0, f"d_rotary must be even, got {d_rotary}"
        self.d_rotary = d_rotary
        speed = base ** -(torch.arange(0, d_rotary, 2, dtype=torch.float64) / d_rotary)
        angle = torch.arange(n_ctx, dtype=torch.float64)[:, None] * speed
        # The same half twice, so that one product serves both members of a plane.
        self.register_buffer("cos", torch.cat([angle.cos(), angle.cos()], -1).float(), persistent=False)
        self.register_buffer("sin", torch.cat([-angle.sin(), angle.sin()], -1).float(), persistent=False)

    def forward(self, x: Float[Tensor, "batch head pos d_head"]) -> Float[Tensor, "batch head pos d_head"]:
        """Rotate queries or keys at positions 0, 1, ..."""
        rotary, unchanged = x[..., : self.d_rotary], x[..., self.d_rotary :]
        cos, sin = self.cos[: x.shape[-2]].to(x.dtype), self.sin[: x.shape[-2]].to(x.dtype)
        return torch.cat([rotary * cos + rotary.roll(self.d_rotary // 2, -1) * sin, unchanged], -1)

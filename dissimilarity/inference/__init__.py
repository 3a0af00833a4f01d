"""Standard errors: the jackknife over units."""

"""Standard errors: the jackknife over units of whole sequences."""

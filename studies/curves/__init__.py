"""study=curves: draw the curves of any runs in one figure."""

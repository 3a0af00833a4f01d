"""study=report: show any runs on one page."""

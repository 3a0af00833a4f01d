"""One self-contained page that shows a run, several runs, a study or a comparison in any browser."""

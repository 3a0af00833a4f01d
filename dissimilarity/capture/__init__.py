"""Read a model at a site and enter it there: site names, architecture tables, hooks."""

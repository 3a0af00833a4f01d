"""The command ``dissimilarity``: compare two models from the shell."""

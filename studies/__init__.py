"""Studies: each answers a question over finished runs, in a folder here and a YAML file in conf/study.

A study is a function of the config and its own keys that returns `studies.common.results.Results`. It writes no results
itself: `analyze.py` writes them once all are complete.
"""

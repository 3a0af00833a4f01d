"""Studies: a question answered over finished runs, one file and one YAML (conf/study) each.

A study is a function of the config and its own keys that returns `studies.results.Results`. It writes nothing itself:
what it found is written at once when all of it is there.
"""

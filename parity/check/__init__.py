"""`lm check`: somebody's functions held to the oracle, and the mistakes in them named.

The file to check runs in a process of its own (`child`, started by `process`). `subjects` and `table` say what can be
checked, `choose` finds it in the file, `compare` and `judge` hold it to the oracle, `diagnose` names the mistake, and
`run` does all of it for a file.
"""

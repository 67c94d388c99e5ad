"""`lm check`: somebody's functions held to the oracle, and the mistakes in them named.

The file to check runs in a process of its own (`child`, started by `process`). `subjects` says what can be checked,
`compare` judges what comes back, `diagnose` names the mistake, `run` does all of it for a file.
"""

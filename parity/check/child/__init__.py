"""The process that holds the file under check. The folder runs as a script, in the Python of the user's project.

It needs NumPy and nothing of this project: `python parity/check/child FILE`. Requests arrive on standard input, replies
leave on standard output (`wire`); before the file is imported both are moved out of its reach, so that it may print.
"""

"""Correct implementations of another hand than the oracle's, each with a switch for every known mistake.

Each file is written once over the names of `arrays`, so each implementation is one in torch and one in JAX. It shares
no formula's way of writing with the oracle.
"""

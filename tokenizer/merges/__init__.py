"""Byte-pair merges: learn them from counted words, apply them to new words."""

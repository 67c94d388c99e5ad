"""`lm check --hf`: both backends beside transformers, on a model that transformers saved.

All of them are held to one truth: the float64 oracle with the folder's own weights. `folder` reads the model, `work`
chooses texts by the model's size, `truth`, `theirs`, `in_torch` and `in_jax` compute, `judge` compares, and `show`
writes the verdict.
"""

"""`lightsr train`: configuration, data, the loop on Lightning, checkpoints.

`run.py` is the verb; `config.py` says what a training is; the others are one concern each.
"""

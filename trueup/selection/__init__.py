"""Data selection: which rows are worth training on, and what each of them weighs."""

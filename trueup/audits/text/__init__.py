"""Audits of what a model writes: texts it generates are scored, counted and compared by group."""

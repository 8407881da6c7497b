"""Audits of what a model finds likely: tokens, words and whole sentences."""

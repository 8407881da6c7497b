"""Audits of what a model's vectors hold together: words, sentences, words in their context."""

"""Audits of what a model does: refuses, answers, judges, values."""

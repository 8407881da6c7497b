"""Judges: what makes them fair, and what is told by comparing answers with known ones."""

"""Calibration: what an audit reports where the truth is known."""

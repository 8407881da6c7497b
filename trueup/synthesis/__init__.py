"""Data makers: rows to train on, made from models, templates and rewards."""

"""Worlds whose truth is known: what a method must find there, and what it must leave alone."""

"""The whole loop on a world whose truth is known: measure, correct, prove."""

from trueup.demo.loop import run_demo
from trueup.demo.result import DemoResult

__all__ = ["DemoResult", "run_demo"]

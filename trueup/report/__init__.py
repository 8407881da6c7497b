"""The report: one page that reads offline, on a phone, in the dark and on paper."""

from trueup.report.content import ReportInput
from trueup.report.from_runs import report_run
from trueup.report.page import render, write_report

__all__ = ["ReportInput", "render", "report_run", "write_report"]

"""The page that shows an evaluation to a person: one HTML file that asks the network for nothing."""

from eval.report.page import write_report

__all__ = ["write_report"]

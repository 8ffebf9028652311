"""Run folders of `udc-defense evaluate` as one HTML page that needs nothing else."""

from udc_defense.report.page import write_report

__all__ = ["write_report"]

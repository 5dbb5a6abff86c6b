"""One self-contained HTML page about a run: report card, learning curves, sample clozes, agents, how it was made.

Everything the page shows is prepared here; ``page.html.jinja`` only lays it out. The page loads nothing from
elsewhere, and the same run gives the same bytes. Nothing here knows about models: it reads what runs leave.
"""

from vagen.evaluate.report.inputs import ReportError
from vagen.evaluate.report.page import write_report

__all__ = ["ReportError", "write_report"]

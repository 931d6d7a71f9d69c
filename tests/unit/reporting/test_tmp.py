from pathlib import Path
from streams.report import print_report, as_json
from streams.report_page import page
from rich.console import Console


def test_x(a_run):
    Path("/tmp/report.html").write_text(page(a_run))
    print_report(a_run, Console(width=80))
    print(as_json(a_run))

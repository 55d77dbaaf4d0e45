"""Where the webui reports what it swallows."""

from __future__ import annotations

import sys
import traceback

exception_records: list[dict] = []
_reports: list[tuple[str, BaseException | None]] = []


def record_exception():
    error = sys.exc_info()[1]
    if error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        traces = [[f"{frame.filename}, line {frame.lineno}, {frame.name}", frame.line] for frame in frames]
        exception_records.append({"exception": str(error), "traceback": traces})
        del exception_records[:-5]


def report(message: str, *, exc_info: bool = False) -> None:
    record_exception()
    _reports.append((message, sys.exc_info()[1]))


def print_error_explanation(message):
    record_exception()
    _reports.append((message, sys.exc_info()[1]))


def display(e: Exception, task, *, full_traceback=False):
    record_exception()
    _reports.append((task, e))

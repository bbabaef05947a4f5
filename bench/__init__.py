"""Measuring on boards, and telling: runs, statistics, report.json and report.html."""

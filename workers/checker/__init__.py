"""Reads every draft before anyone sees it: gates, scorer, verdict."""

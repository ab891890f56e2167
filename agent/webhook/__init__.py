"""Admission: reviews in, verdicts out."""

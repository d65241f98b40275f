"""The report: finished runs in, one HTML page out."""

"""The report: records of finished runs in, one HTML page out."""

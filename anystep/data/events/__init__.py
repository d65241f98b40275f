"""Event data sets on disk: which recordings a folder holds, and all of them as frames."""

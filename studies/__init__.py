"""The studies behind `results/*.json`. Each is a module with the command that measures it again."""

"""Fetching a release: `get` by name, from the table in `releases`, with `download` and `unpack`."""

"""The figures of a report: plain arrays in, a matplotlib `Figure` out; `style` turns it into an
inline SVG or a file.

No function here knows what a run folder is. A method keeps its colour by its place in a mapping.
matplotlib is used through `Figure` objects alone: no pyplot, no open figure left behind.
"""

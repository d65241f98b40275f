"""Figures: plain arrays in, a matplotlib `Figure` out; `style` makes an inline SVG or a file of it.

A method keeps its colour by its place in a mapping. No pyplot, so no open figure is left behind.
"""

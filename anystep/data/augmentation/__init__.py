"""Augmentation of the training batch: the table and its small rows (`augment`), and the larger ones
a file each.
"""

"""The simulated event camera: one image (`simulate`), a batch on its device (`batched`), a folder
of files (`film`).
"""

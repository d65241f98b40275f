"""The simulated event camera: for one image, for a batch on its device, and onto disk."""

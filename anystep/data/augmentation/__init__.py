"""Changes of the training batch by chance: the table (`augment`) and a file each for the larger."""

"""Image data sets on disk: CIFAR, photographs in folders or parquet shards."""

"""Events, frames, splits and datasets: numpy only, apart from the batch loader."""

"""Datasets, label masking, and what happens to a batch on the device."""

from scnf_jax.data.augment import dequantize, middle, random_view
from scnf_jax.data.masking import mask_labels, read_answers
from scnf_jax.data.sources import Dataset, load_dataset
from scnf_jax.data.streams import ReadAhead, Rows, TrainObjects, at_most, take

__all__ = [
    "Dataset",
    "ReadAhead",
    "Rows",
    "TrainObjects",
    "at_most",
    "dequantize",
    "load_dataset",
    "mask_labels",
    "middle",
    "random_view",
    "read_answers",
    "take",
]

"""One file a schedule: `NAME`, and `actions(stages, micro_batches) -> Schedule`. A new file here is a new schedule."""

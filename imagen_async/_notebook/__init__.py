"""What notebooks show of results and batches."""

"""A batch: requests in, results out, in between as many as the accounts have room for."""

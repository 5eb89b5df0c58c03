"""The network: sessions with a key, one an account, and one without a key for files."""

"""One window for the whole machine: the limits of a key, shared by all processes of a user that have it."""

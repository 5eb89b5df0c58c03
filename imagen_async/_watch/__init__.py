"""Who watches: events for the user's listener, the log, traces."""

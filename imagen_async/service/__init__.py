"""The HTTP service: one process owns keys, limits, budget and journal, and everybody else asks it."""

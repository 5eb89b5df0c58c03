"""The pure part: what to send, what an answer means, and whose turn it is. Knows no loop, clock, key or host."""

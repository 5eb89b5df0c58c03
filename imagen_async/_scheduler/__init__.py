"""The shell around the plan: the one loop, the talks, and the one stream of what changed."""

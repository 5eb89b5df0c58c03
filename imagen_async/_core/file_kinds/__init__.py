"""Files told by their first bytes, and whether one is whole by its format's own structure. Pure: from bytes alone."""

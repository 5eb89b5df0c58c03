"""The version, said once: the distribution and the User-Agent take it from here."""

__version__ = "0.1.0"

"""The offline clinic runtime: everything a clinic needs, and nothing that trains."""

__version__ = "0.1.0"

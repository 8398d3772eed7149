"""What lets a clinic trust what it was given and what it has done: signatures of bundles, and the audit log."""

__all__: list[str] = []

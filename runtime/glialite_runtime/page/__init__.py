"""The page of a report: one string table in four languages, and the HTML that is made of it."""

__all__: list[str] = []

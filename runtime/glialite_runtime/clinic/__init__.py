"""How a clinic works through its cases: a folder that is watched, a page on this computer."""

__all__: list[str] = []

"""From raw scans to the model's space and back: registration, brain mask, resampling, with numpy alone."""

__all__: list[str] = []

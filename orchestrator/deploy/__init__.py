"""Rolling releases out to hosts, looking at them, and going back."""

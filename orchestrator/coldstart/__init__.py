"""Why the first request after a start is slow, and what keeps it short: caches, prewarming, measurement."""

"""How good and how fast: scores, timings and their tables, behind ``spark-speech bench``."""

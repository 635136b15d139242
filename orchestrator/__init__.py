"""spark-speech."""

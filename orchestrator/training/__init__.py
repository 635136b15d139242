"""How the small Parakeet-shaped checkpoint of this project is made: corpus, loss, training, evaluation.

Run ``python -m orchestrator.training --help``. Nothing else in the package imports this one.
"""

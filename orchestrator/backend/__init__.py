"""The Triton-facing half of the models: requests in, an engine call, responses out.

What the ``model.py`` files of the model repository share. Nothing in here imports Triton's
``triton_python_backend_utils`` (it exists only inside a running server): a model hands that module in.
"""

"""Building, keeping and checking Triton model repositories.

``plan`` says what a release will hold (pure), ``artifacts`` fetches the weights, ``config`` writes
``config.pbtxt``, ``manifest`` names the release by its content, ``release`` keeps releases on disk,
``validate`` judges one, and ``builder`` runs them in that order.
"""

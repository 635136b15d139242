"""FastConformer recognisers in plain torch: NeMo's weights and results, without NeMo at serving time."""

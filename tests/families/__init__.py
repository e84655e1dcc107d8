"""The sweep over all causal model types of transformers, `make families`; check.py says what it compares."""

"""Tokenization, streaming detokenization and chat templates."""

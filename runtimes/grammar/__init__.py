"""Grammars that answers are limited to: JSON schemas, regular expressions and context-free grammars."""

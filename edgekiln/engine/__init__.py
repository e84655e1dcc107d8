"""The engine directory: engine.json, reports, checked reading and atomic writing. Imports nothing heavy."""

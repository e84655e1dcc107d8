"""Model sources: Hugging Face directories, hub ids and GGUF files, with weights that are read one at a time."""

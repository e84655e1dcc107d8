"""What quantizers need to know of a model: layer groups, activation statistics and output errors."""

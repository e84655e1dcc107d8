"""Quality of engines: perplexity, KL divergence from the reference, and comparison tensor by tensor."""

"""The bodies of requests, as in OpenAI's API, with the fields of vLLM and llama-server that it lacks."""

"""An HTTP server for engines with the API of OpenAI: `edgekiln serve`.

Needs the extra `serve`. `server.py` runs it, `app.py` lists its routes.
"""

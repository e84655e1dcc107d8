"""Parts of `edgekiln chat`: its commands, and how it reads messages."""

"""How chat templates and answers write tools."""

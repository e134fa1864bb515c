"""LangGraph's Agent Server: the real one, and one of its kind that answers as it was recorded."""

"""An OpenAI-compatible server around any decoder; it needs the extra `serve`."""

"""The router: OpenAI API in front, prefill and decode (or mixed) engines behind."""

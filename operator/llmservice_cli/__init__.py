"""The `llmservice` command line."""

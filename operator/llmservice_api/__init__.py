"""The LLMService resource as a pydantic model; the CRD is printed from it."""

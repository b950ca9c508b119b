"""The serving side: scheduler for vLLM, engine exporter, pacing, router. Importing this imports nothing else."""

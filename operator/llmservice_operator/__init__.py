"""The kopf operator: observe, plan, render, apply, tell.

Run it as `python -m llmservice_operator`. Port 9402: `/healthz` (liveness and readiness), `/metrics`. Settings come
from the environment (prefix LLMSERVICE_, see `settings.py`); rights are listed in `rbac.md` beside this file.
"""

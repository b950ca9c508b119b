"""A control plane with our CRD and the chart's rights, for generated LLMServices."""

from tests.control.conftest import api, operator, plane, running

__all__ = ["api", "operator", "plane", "running"]

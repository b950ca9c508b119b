"""The bare control plane, the operator on it and a namespace of one's own: those of tests/control."""

from tests.control.conftest import api, operator, plane, running

__all__ = ["api", "operator", "plane", "running"]

"""A real Kubernetes for demo and tests: a bare control plane, or kind with GPU nodes, also without registry.

Standard library only, so that it runs before any environment exists. It never talks to a cluster that was not
named to it or made by it.
"""

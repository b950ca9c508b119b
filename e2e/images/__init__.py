"""Our container images, built without a registry and without any container tool.

`python -m e2e.images build` writes docker archives into the cache. It never pulls, pushes or runs an image.
"""

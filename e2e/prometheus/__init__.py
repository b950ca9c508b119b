"""Prometheus for tests and demo: the program, its in-cluster manifests and our scrape configuration."""

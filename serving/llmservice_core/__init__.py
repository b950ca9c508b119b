"""The rules: pure decisions on plain records. Standard library only; no I/O, no clock, no environment."""

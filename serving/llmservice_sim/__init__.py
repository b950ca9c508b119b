"""The simulator: engines in virtual time, deciding with the very objects that production decides with."""

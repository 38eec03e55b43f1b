"""How fast, against what it could be. Each module is a command that prints ratios measured in one run."""

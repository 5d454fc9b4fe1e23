"""crossgraft: adapt frozen vision-language models by training a few percent of their parameters."""

__version__ = "0.1.0"

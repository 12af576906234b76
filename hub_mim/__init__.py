"""A plugin hub of masked-modelling methods."""

__version__ = "0.1.0"

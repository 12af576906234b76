"""A tiny honest plugin for the core's tests: a masked autoencoder of short sequences of vectors."""

import hub_mim  # noqa: F401 (makes transformers' auto classes know this plugin)

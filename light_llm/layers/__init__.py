"""Layers: the parts of a model that a config chooses by name, and those with a fast form beside their formula."""

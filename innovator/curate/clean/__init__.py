"""Cleaning of science text: seven rules that touch only the blocks they understand, and a model that may help them."""

"""The decoder: needs torch alone and imports only from its own folder, so that it can ship with the weights."""

"""Weights as data: folders in, folders out, tensor by tensor, on the CPU."""

"""What a model knows, has learnt and has forgotten, in figures."""

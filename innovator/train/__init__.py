"""Training: a frozen spec and the folders it reads in, a folder of weights out."""

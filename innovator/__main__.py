"""`python -m innovator`, which is also what torchrun starts: `torchrun --nproc-per-node 8 -m innovator run RECIPE`."""

from innovator.cli import main

main()

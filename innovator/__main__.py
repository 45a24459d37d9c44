"""`python -m innovator`, which is also what torchrun starts: `torchrun --nproc-per-node 8 -m innovator run RECIPE`.

What it imports, every worker process of a curation imports again: so nothing, until it runs.
"""


def main() -> None:
    """The command line."""
    from innovator.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()

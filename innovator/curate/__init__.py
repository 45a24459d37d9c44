"""From raw documents to corpora by discipline, with the reason for everything that was changed or dropped."""

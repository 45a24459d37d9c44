"""From texts to rows of tokens: sources, tokenizers, token files, and the mixture that training reads."""

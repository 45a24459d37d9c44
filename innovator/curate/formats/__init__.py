"""How the text of each family of files is had from their bytes."""

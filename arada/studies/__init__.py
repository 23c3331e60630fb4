"""Studies: several methods, seeds and rules that are fixed before the first run (`python -m arada.study`)."""

"""The components: one package each, with the same names in each."""

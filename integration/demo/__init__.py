"""The demo: real models, eager against lamina (and torch.compile with `--peer`), in one live table."""

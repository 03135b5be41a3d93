"""The command line: `ccapi serve`, `config`, `chat` and the rest."""

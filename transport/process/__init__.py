"""Child processes: started, spoken with, watched by the guardian, ended; their login and files."""

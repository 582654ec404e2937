"""What people run: the command line. It calls the library and prints; nothing is computed here."""

"""Scopes for training loops that are not one's own. Each module needs the library it is named after."""

"""A trained run as a web page and a JSON API; see `__main__`."""

"""How does a scheduled program become plain loops? One pass a file; `pipeline` has the order."""

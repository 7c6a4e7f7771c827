"""How does a lowered program become machine code? One folder or file for each backend."""

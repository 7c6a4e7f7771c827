"""How does a model of another framework become a module of graph functions?

`gputune.relax.frontend.torch.from_exported_program` takes what `torch.export.export` gives.
"""

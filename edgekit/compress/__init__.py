"""The compile stage: the one graph as a torch module, trained, pruned, decomposed, clustered, and back as a graph.

The only part of edgekit besides the torch frontend that imports torch. Importing ``compress.methods`` declares every
method.
"""

"""Images to logits: the branches and their fusion, in Flax."""

"""PyTorch modules with the public models' names and geometry, and the cases compared with them."""

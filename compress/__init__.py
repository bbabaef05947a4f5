"""PyTorch and photos in, a cascade folder out: networks, training, shrinking, cropping, export."""

"""The rows of the catalogue, a file a kind of data. Nothing here imports torch or a method."""

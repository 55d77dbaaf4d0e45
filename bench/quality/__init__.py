"""What the method does to pictures, measured on the toy model, whose true pictures are known at every size."""

"""What the toy checkpoint is trained on and judged by: scenes whose truth is known at any size."""

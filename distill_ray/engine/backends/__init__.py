"""What holds the student's weights and optimiser: plain PyTorch or DeepSpeed."""

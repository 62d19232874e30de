"""Training steps on CUDA, planned and fused."""

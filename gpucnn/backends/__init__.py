"""The code behind each device: `base` is the contract, `cpu` and `cuda` keep it."""

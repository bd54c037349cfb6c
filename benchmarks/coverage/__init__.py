"""Whether nrfx works on every model of torchvision and on some of timm, and how much of each can change width."""

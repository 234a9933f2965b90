"""Experiments over studies: variants side by side, and checks of what trained networks do. Nothing here decides a weight."""

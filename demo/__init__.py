"""The main job before a newcomer's eyes: `make demo`."""

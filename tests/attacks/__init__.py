"""Floods, slow peers and failing surroundings, against real processes, with limits in number and time."""

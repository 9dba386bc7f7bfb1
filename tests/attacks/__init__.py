"""Floods, slow peers and misbehaving surroundings, against real processes; bounded in count and time."""

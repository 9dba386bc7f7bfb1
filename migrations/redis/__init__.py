"""Steps for Redis: each module has `migrate(server, prefix)`, which may run again if interrupted."""

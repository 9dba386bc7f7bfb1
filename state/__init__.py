"""Where a director's users, hosts and leases survive a restart. Knows nothing of the director itself."""

"""The lab's mail clients: short logins, long sessions, deliveries, and what became of each."""

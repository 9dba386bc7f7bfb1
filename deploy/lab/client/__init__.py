"""The lab's mail clients: they log in, hold long sessions and deliver mail, and record the result of each."""

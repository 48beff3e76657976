"""The checkpoints role: signed hashes of the event store, kept outside the database."""

"""The commands role: Kafka to store. Judges each command against its order."""

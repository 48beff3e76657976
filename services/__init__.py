"""The Resolution Center: an event-sourced service that settles disputes on a marketplace's orders."""

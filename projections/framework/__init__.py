"""What all read models share: how one is written, kept up to date, rebuilt, and paged."""

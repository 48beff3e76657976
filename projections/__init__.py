"""Read models, each made from the event stream alone: one module per read model."""

"""What auditors do: replay an order's history."""

"""What a turn costs, side by side with what people write by hand."""

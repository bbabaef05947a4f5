"""Other methods, trained alike, and what is compared and shipped."""

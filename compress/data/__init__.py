"""Photos: sets of them, their pixels in memory, random views."""

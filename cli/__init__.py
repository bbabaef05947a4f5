"""The verbs, thin: parse, call, print."""

"""HTTP: parse, one call of a use case, answer."""

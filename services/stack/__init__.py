"""The embedded stack of `akin up`: its servers, its programs, and the supervisor that keeps them running."""
